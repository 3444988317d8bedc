//! A device that sends and receives nothing.

use smoltcp::phy::{Device, DeviceCapabilities};
use smoltcp::time::Instant;

/// A device that sends and receives nothing.
pub struct NullDevice;

/// A token that cannot exist.
pub enum NoToken {}

impl smoltcp::phy::RxToken for NoToken {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, _: F) -> R {
        match self {}
    }
}

impl smoltcp::phy::TxToken for NoToken {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, _: usize, _: F) -> R {
        match self {}
    }
}

impl Device for NullDevice {
    type RxToken<'a> = NoToken;
    type TxToken<'a> = NoToken;

    fn receive(&mut self, _timestamp: Instant) -> Option<(NoToken, NoToken)> {
        None
    }

    fn transmit(&mut self, _timestamp: Instant) -> Option<NoToken> {
        None
    }

    fn capabilities(&self) -> DeviceCapabilities {
        DeviceCapabilities::default()
    }
}
