//! The least that a forwarder can do: swap the MAC addresses and send the frame back.

use holdfast_director::core::{DropReason, Frame, Verdict};
use holdfast_director::worker::{PacketCore, SendPacket};

/// A packet core without tables.
pub struct Reflector;

impl PacketCore for Reflector {
    fn process(&mut self, _now_ns: u64, frames: &mut [Frame<'_>], verdicts: &mut [Verdict]) {
        for (frame, verdict) in frames.iter_mut().zip(verdicts) {
            if let Some(macs) = frame.packet_mut().get_mut(..12) {
                macs.rotate_left(6);
                *verdict = Verdict::Transmit;
            }
        }
    }

    fn turn(&mut self, _now_ns: u64, _received: usize, _send: &mut SendPacket<'_>) {}

    fn waiting(&self) -> bool {
        false
    }

    fn unsent(&mut self, _reason: DropReason) {}

    fn discarded(&mut self, _frames: u64, _bytes: u64) {}
}
