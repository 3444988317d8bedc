//! `store`: access to XenStore. The XenStore service is the server.
//!
//! The requests of a client are carried out one at a time, in order. A client has at most one
//! transaction open.
//!
//! | who is hostile | what it can do | what it must not | target |
//! |---|---|---|---|
//! | a client or the XenStore service | send any request or reply | reach a path that its rules do not give; use up the other clients' share | `xenstore-store`, `netfront-store`, `control-store` |

use arrayvec::{ArrayString, ArrayVec};

use crate::message::{Defect, Message, Reader, Writer};
use crate::queue::Interface;

/// The interface.
pub struct Store;
impl Interface for Store {
    const NAME: &'static str = "store";
    type Request = Request;
    type Reply = Reply;
}

/// The length of the longest path in bytes. XenStore's own limit is 2,048 for a relative path; the
/// paths of the services are short.
pub const MAX_PATH: usize = 120;
/// The length of the longest value in bytes.
pub const MAX_VALUE: usize = 120;

/// A XenStore path, absolute or relative to the domain's own directory.
pub type Path = ArrayString<MAX_PATH>;
/// A path that is written in the source.
///
/// # Holding one proves
/// It is not longer than [`MAX_PATH`], so it is a [`Path`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PathLiteral(&'static str);

impl PathLiteral {
    /// Returns the path.
    ///
    /// # Panics
    /// The text is longer than [`MAX_PATH`]. In a constant, this is an error of the compiler.
    #[must_use]
    pub const fn new(text: &'static str) -> Self {
        assert!(text.len() <= MAX_PATH, "no longer than a path may be");
        PathLiteral(text)
    }
}

impl From<PathLiteral> for Path {
    #[inline(never)] // Inline, it is a copy of a whole path each time.
    fn from(literal: PathLiteral) -> Path {
        let mut path = Path::new();
        // It fits: its length was checked when it was made.
        let _ = path.try_push_str(literal.0);
        path
    }
}

/// The value of a node.
pub type Value = ArrayVec<u8, MAX_VALUE>;

/// A request of a client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Request {
    /// The client's number for the request, which the reply repeats.
    pub id: u16,
    /// The action to carry out.
    pub action: Action,
}

/// The actions that a client can request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Read a node's value.
    Read(Path),
    /// Write a node.
    Write(Path, Value),
    /// Remove a node and everything below it. Takes the right to write all of them.
    Remove(Path),
    /// List the names of a node's children, each NUL-terminated. Fails with [`StoreError::TooLong`]
    /// if they are longer than [`MAX_VALUE`].
    List(Path),
    /// Send [`Reply::Changed`] with this token for every change at a path, and for those below it if
    /// the client may watch every node there.
    Watch(Path, u16),
    /// End the watch of this path and token.
    Unwatch(Path, u16),
    /// Begin a transaction: the reads and writes that follow are part of it.
    Begin,
    /// Commit the transaction. Fails with [`StoreError::Again`] if another client changed what it
    /// touched: the whole transaction has to be repeated.
    Commit,
    /// Abort the transaction.
    Abort,
}

/// The reason why a request was not carried out.
///
/// [`Policy`](Self::Policy), [`Access`](Self::Access), [`Quota`](Self::Quota) and
/// [`InUse`](Self::InUse) are refusals: a rule of the policy, of XenStore or of the kernel denies the
/// request. [`Timeout`](Self::Timeout) is a failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum StoreError {
    /// There is no such node (`ENOENT`).
    NotFound = 1,
    /// XenStore refuses access (`EACCES`, `EPERM`, `EROFS`).
    Access = 2,
    /// The policy does not give this client the path. The request did not reach XenStore.
    Policy = 3,
    /// The transaction conflicts with another (`EAGAIN`).
    Again = 4,
    /// The reply is longer than a message holds.
    TooLong = 5,
    /// A quota of XenStore is exhausted (`ENOSPC`, `E2BIG`, `EBUSY`).
    Quota = 6,
    /// XenStore did not reply in time, or the connection to it is broken.
    Timeout = 7,
    /// Any other reason.
    Other = 8,
    /// The node names the peer of a domain set, and it is another one than before, while a port for
    /// the earlier peer is open, or a page granted to it.
    InUse = 9,
}

impl StoreError {
    /// All errors, in the order of their numbers.
    pub const ALL: [StoreError; 9] = [
        StoreError::NotFound,
        StoreError::Access,
        StoreError::Policy,
        StoreError::Again,
        StoreError::TooLong,
        StoreError::Quota,
        StoreError::Timeout,
        StoreError::Other,
        StoreError::InUse,
    ];
}

/// The replies and events of the XenStore service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// The reply to the request `id`.
    Answer {
        /// The client's number for the request.
        id: u16,
        /// The value, empty for an action that has none, or the reason why the request failed.
        result: Result<Value, StoreError>,
    },
    /// Something at or below a watched path changed: the client should read it again.
    Changed {
        /// The token of the watch.
        token: u16,
    },
}

impl Message for Request {
    const SIZE: usize = 256;
    fn encode(&self, writer: &mut Writer<'_>) {
        writer.u16(self.id);
        match &self.action {
            Action::Read(path) => {
                writer.u16(1);
                writer.length_prefixed(path.as_bytes());
            }
            Action::Write(path, value) => {
                writer.u16(2);
                writer.length_prefixed(path.as_bytes());
                writer.length_prefixed(value);
            }
            Action::Remove(path) => {
                writer.u16(3);
                writer.length_prefixed(path.as_bytes());
            }
            Action::List(path) => {
                writer.u16(4);
                writer.length_prefixed(path.as_bytes());
            }
            Action::Watch(path, token) => {
                writer.u16(5);
                writer.u16(*token);
                writer.length_prefixed(path.as_bytes());
            }
            Action::Unwatch(path, token) => {
                writer.u16(6);
                writer.u16(*token);
                writer.length_prefixed(path.as_bytes());
            }
            Action::Begin => writer.u16(7),
            Action::Commit => writer.u16(8),
            Action::Abort => writer.u16(9),
        }
    }
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Defect> {
        let id = reader.u16()?;
        let action = match reader.u16()? {
            1 => Action::Read(reader.text()?),
            2 => Action::Write(reader.text()?, reader.length_prefixed()?),
            3 => Action::Remove(reader.text()?),
            4 => Action::List(reader.text()?),
            5 => {
                let token = reader.u16()?;
                Action::Watch(reader.text()?, token)
            }
            6 => {
                let token = reader.u16()?;
                Action::Unwatch(reader.text()?, token)
            }
            7 => Action::Begin,
            8 => Action::Commit,
            9 => Action::Abort,
            _ => return Err(reader.reject(2, Defect::Tag)),
        };
        Ok(Request { id, action })
    }
}

impl Message for Reply {
    const SIZE: usize = 128;
    fn encode(&self, writer: &mut Writer<'_>) {
        match self {
            Reply::Answer { id, result: Ok(value) } => {
                writer.u16(1);
                writer.u16(*id);
                writer.length_prefixed(value);
            }
            Reply::Answer { id, result: Err(error) } => {
                writer.u16(2);
                writer.u16(*id);
                writer.u8(*error as u8);
            }
            Reply::Changed { token } => {
                writer.u16(3);
                writer.u16(*token);
            }
        }
    }
    fn decode(reader: &mut Reader<'_>) -> Result<Self, Defect> {
        match reader.u16()? {
            1 => Ok(Reply::Answer { id: reader.u16()?, result: Ok(reader.length_prefixed()?) }),
            2 => {
                let id = reader.u16()?;
                let of_number = |number| StoreError::ALL.into_iter().find(|error| *error as u8 == number);
                Ok(Reply::Answer { id, result: Err(reader.checked(Reader::u8, of_number)?) })
            }
            3 => Ok(Reply::Changed { token: reader.u16()? }),
            _ => Err(reader.reject(0, Defect::Tag)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::tests::{check_malformed, check_round_trip};

    #[test]
    fn messages_round_trip() {
        let short = Path::from("device/vif/0").unwrap();
        let long = Path::from(&"p".repeat(MAX_PATH)).unwrap();
        let value: Value = (0..MAX_VALUE).map(|at| at as u8 + 1).collect();
        let actions = [
            Action::Read(short),
            Action::Write(long, value.clone()),
            Action::Write(short, Value::new()),
            Action::Remove(long),
            Action::List(Path::new()),
            Action::Watch(long, u16::MAX),
            Action::Unwatch(short, 1),
            Action::Begin,
            Action::Commit,
            Action::Abort,
        ];
        check_round_trip(&actions.map(|action| Request { id: 0x1234, action }));
        let mut replies = vec![
            Reply::Answer { id: 1, result: Ok(value) },
            Reply::Answer { id: 2, result: Ok(Value::new()) },
            Reply::Changed { token: 3 },
        ];
        replies.extend(StoreError::ALL.map(|error| Reply::Answer { id: 4, result: Err(error) }));
        check_round_trip(&replies);
        const LITERAL: PathLiteral = PathLiteral::new("device/vif/0");
        assert_eq!(<Path as From<PathLiteral>>::from(LITERAL), short);
        let too_long = [0, 0, 1, 0, MAX_PATH as u8 + 1];
        check_malformed::<Request>(&[
            (&[], 2, Defect::Tag),
            (&[0, 0, 10], 2, Defect::Tag),
            (&too_long, 4, Defect::Length),
            (&[0, 0, 1, 0, 1, 0, 0xff], 4, Defect::Text),
            (&[0, 0, 7, 0, 1], 4, Defect::Padding),
        ]);
        check_malformed::<Reply>(&[
            (&[], 0, Defect::Tag),
            (&[4], 0, Defect::Tag),
            (&[2, 0, 0, 0, 0], 4, Defect::Range),
            (&[2, 0, 0, 0, 10], 4, Defect::Range),
            (&[1, 0, 0, 0, MAX_VALUE as u8 + 1], 4, Defect::Length),
        ]);
    }
}
