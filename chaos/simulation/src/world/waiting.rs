//! Packets that wait at a director: what it sends later has to be one of them, once.

use std::collections::{BTreeMap, VecDeque};

use super::oracle::{Token, token};
use super::trace::FlowId;
use crate::director::frame;
use crate::endpoint::segment::Flags;
use crate::plan::cluster;

/// Packets that may wait at a director: more than all its waiting rooms hold.
const WAITING: usize = 256;

/// What waits at each director, and whether something was sent since that may be in its place.
#[derive(Default)]
pub(super) struct Waiting(BTreeMap<u32, VecDeque<(Vec<u8>, bool)>>);

/// Whether this is the reset that a backend gets for what it has said: where it expects it (RFC 9293 section 3.5.2).
fn resets_backend(answer: &[u8], said: &[u8]) -> bool {
    let (Some((lip, to, _)), Some((from, dst, _))) = (frame::tuple(answer), frame::tuple(said))
    else {
        return false;
    };
    let (Token::Segment(seq, _, reset, _), Token::Segment(_, ack, flags, _)) =
        (token(answer), token(said))
    else {
        return false;
    };
    cluster::backend_at(*to.ip()).is_some()
        && (to, lip) == (from, dst)
        && (Flags(reset).has(Flags::RST) && Flags(flags).has(Flags::ACK) && seq == ack)
}

impl Waiting {
    /// A packet waits at a director.
    pub(super) fn waits(&mut self, id: u32, packet: Vec<u8>) {
        let waiting = self.0.entry(id).or_default();
        waiting.push_back((packet, false));
        if waiting.len() > WAITING {
            waiting.pop_front();
        }
    }

    /// The packet that has waited at a director and is this one now.
    pub(super) fn waited(&mut self, id: u32, now: &[u8]) -> Option<Vec<u8>> {
        let waiting = self.0.get_mut(&id)?;
        // The same one may have come again since something was sent in the place of the first.
        let same = |(before, _): &(Vec<u8>, bool)| token(before) == token(now);
        let open = waiting.iter().position(|waits| !waits.1 && same(waits));
        let at = open.or_else(|| waiting.iter().position(same))?;
        waiting.remove(at).map(|(before, _)| before)
    }

    /// A director sends something of its own to an end of this client's connection: a reset, or a question to
    /// the backend, that may be the answer to what has waited longest, in its place. Whether it is the reset that a
    /// backend gets for what it has said.
    pub(super) fn answered_in_place(&mut self, id: u32, flow: FlowId, answer: &[u8]) -> bool {
        let Some(waiting) = self.0.get_mut(&id) else { return false };
        let first = |such: &dyn Fn(&[u8]) -> bool| {
            waiting.iter().position(|(before, answered)| !answered && such(before))
        };
        let backends = first(&|before| resets_backend(answer, before));
        let of_client = |before: &[u8]| {
            frame::tuple(before).is_some_and(|(src, ..)| frame::socket_number(&src) == flow)
        };
        if let Some(at) = backends.or_else(|| first(&of_client)) {
            waiting[at].1 = true;
        }
        backends.is_some()
    }

    /// The packets that have begun to wait at a director, and were neither sent nor answered nor dropped.
    pub(super) fn at(&self, id: u32) -> impl Iterator<Item = &[u8]> {
        let waiting = self.0.get(&id).into_iter().flatten();
        waiting.filter(|(_, answered)| !answered).map(|(packet, _)| packet.as_slice())
    }

    /// What waited at a director is gone.
    pub(super) fn forget(&mut self, id: u32) {
        self.0.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::segment::Segment;

    const ACK: Flags = Flags::ACK;

    #[test]
    fn a_reset_for_a_backend_is_in_the_place_of_what_that_has_said() {
        let segment = |src: &str, dst: &str, seq: u32, flags: Flags| {
            let (src, dst) = (src.parse().unwrap(), dst.parse().unwrap());
            Segment { seq, ack: 9, ..Segment::bare(src, dst, flags) }.encode(&[])
        };
        let (client, vip) = ("198.51.100.1:1000", "203.0.113.10:80");
        let (local, backend) = ("10.9.0.1:1063", "10.1.0.1:8080");
        let flow = frame::socket_number(&client.parse().unwrap());
        let mut waiting = Waiting::default();
        for (src, dst) in [(client, vip), (backend, local)] {
            waiting.waits(1, segment(src, dst, 7, ACK));
        }
        let (reset, other) = (Flags::RST, "10.9.0.1:1064");
        assert!(!waiting.answered_in_place(1, flow, &segment(other, backend, 9, reset)));
        let left = |waiting: &Waiting| waiting.at(1).map(<[u8]>::to_vec).collect::<Vec<_>>();
        assert_eq!(left(&waiting), [segment(backend, local, 7, ACK)], "the client's may be");
        for (seq, flags) in [(9, ACK), (8, reset)] {
            assert!(!waiting.answered_in_place(1, flow, &segment(local, backend, seq, flags)));
        }
        assert_eq!(left(&waiting).len(), 1, "a question, or a reset where it is not expected");
        assert!(waiting.answered_in_place(1, flow, &segment(local, backend, 9, reset)));
        assert_eq!(left(&waiting).len(), 0);
    }

    #[test]
    fn what_waited_leaves_once() {
        let datagram = |client: &str, payload: &[u8]| {
            let (src, dst) = (client.parse().unwrap(), "203.0.113.10:53".parse().unwrap());
            crate::endpoint::datagram::Datagram { src, dst, payload }.encode()
        };
        let mut waiting = Waiting::default();
        waiting.waits(1, datagram("198.51.100.1:1000", b"one"));
        let rewritten = datagram("10.9.0.1:4000", b"one");
        assert!(waiting.waited(1, &datagram("10.9.0.1:4000", b"two")).is_none());
        assert!(waiting.waited(2, &rewritten).is_none(), "elsewhere");
        assert_eq!(waiting.waited(1, &rewritten), Some(datagram("198.51.100.1:1000", b"one")));
        assert!(waiting.waited(1, &rewritten).is_none(), "twice");
    }
}
