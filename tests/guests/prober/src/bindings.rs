//! Defines what the bindings of a policy name, for the prober: the bare ends of the queues, which
//! the types of honest programs protect.
//!
//! Bindings name the crate `cloister_interfaces`. Each program of the prober has this module under
//! that name.

use core::marker::PhantomData;

pub use ::cloister_interfaces::*;

use self::queue::QueueEnd;

/// The client's ends of an interface.
pub struct Client<I, S, M> {
    /// The end that sends requests.
    pub requests: QueueEnd<M>,
    /// The end that receives replies.
    pub replies: QueueEnd<M>,
    types: PhantomData<(fn(I), S)>,
}

/// The server's ends of an interface.
pub struct Server<I, S, M> {
    /// The end that receives requests.
    pub requests: QueueEnd<M>,
    /// The end that sends replies.
    pub replies: QueueEnd<M>,
    types: PhantomData<(fn(I), S)>,
}

impl<I: Interface, S: System, M: Memory> Client<I, S, M> {
    /// Keeps the client's ends of the two queues.
    pub fn new(_: S, requests: QueueEnd<M>, replies: QueueEnd<M>) -> Self {
        Client { requests, replies, types: PhantomData }
    }
}

impl<I: Interface, S: System, M: Memory> Server<I, S, M> {
    /// Keeps the server's ends of the two queues.
    pub fn new(_: S, requests: QueueEnd<M>, replies: QueueEnd<M>) -> Self {
        Server { requests, replies, types: PhantomData }
    }
}
