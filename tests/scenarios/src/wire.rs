//! Frames in flight, and the client's device.

use std::collections::VecDeque;

use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

/// The wire between the image and the client.
#[derive(Default)]
pub struct Wire {
    /// Frames to the client.
    pub to_client: VecDeque<Vec<u8>>,
    /// Frames to the image.
    pub to_server: VecDeque<Vec<u8>>,
    /// One in so many frames is lost, whichever way it goes.
    pub lose_every: Option<u64>,
    sent: u64,
}

impl Wire {
    /// Whether the next frame arrives.
    pub fn keeps(&mut self) -> bool {
        self.sent += 1;
        self.lose_every.is_none_or(|every| !self.sent.is_multiple_of(every))
    }
}

/// A frame that the client received.
pub struct Received(Vec<u8>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

/// The client's next frame.
pub struct Sending<'a>(&'a mut Wire);

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let mut frame = vec![0; length];
        let result = f(&mut frame);
        if self.0.keeps() {
            self.0.to_server.push_back(frame);
        }
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;
    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        let frame = self.to_client.pop_front()?;
        Some((Received(frame), Sending(self)))
    }
    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        Some(Sending(self))
    }
    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}
