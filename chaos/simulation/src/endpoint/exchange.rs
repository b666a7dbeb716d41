//! The client's side of a dialogue: requests out, responses verified.

use super::dialogue::{Dialogue, HEAD_LEN, Head};
use super::event::EventKind;
use super::payload::{self, Direction};

/// How far a client has come with its dialogue.
#[derive(Clone, Debug)]
pub(super) struct Exchange {
    pub(super) dialogue: Dialogue,
    /// Requests written.
    asked: u32,
    asked_bytes: u64,
    /// Responses that arrived whole.
    answered: u32,
    /// Where the current response begins, and how far it has come.
    begin: u64,
    offset: u64,
    head: Vec<u8>,
    backend: Option<u32>,
    broken: bool,
}

impl Exchange {
    pub(super) fn new(dialogue: Dialogue) -> Exchange {
        Exchange {
            dialogue,
            asked: 0,
            asked_bytes: 0,
            answered: 0,
            begin: 0,
            offset: 0,
            head: Vec::new(),
            backend: None,
            broken: false,
        }
    }

    fn requests(&self) -> u32 {
        u32::from(self.dialogue.requests)
    }

    /// Whether all responses have arrived.
    pub(super) fn complete(&self) -> bool {
        self.answered == self.requests()
    }

    /// Whether the last request was written.
    pub(super) fn all_asked(&self) -> bool {
        self.asked == self.requests()
    }

    /// Whether half of the last response has arrived.
    pub(super) fn within_last(&self) -> bool {
        let last = self.answered + 1 == self.requests() && self.all_asked();
        let half = self.dialogue.response_len(self.answered) as u64 / 2;
        self.complete() || last && self.offset - self.begin >= half
    }

    /// Responses that arrived whole.
    pub(super) fn answered(&self) -> u32 {
        self.answered
    }

    /// The next request's bytes.
    pub(super) fn ask(&mut self) -> Vec<u8> {
        let request = self.dialogue.request(self.asked, self.asked_bytes);
        self.asked += 1;
        self.asked_bytes += request.len() as u64;
        request
    }

    /// Takes bytes of the backend's stream. False: they are wrong, nothing more can be made of it.
    pub(super) fn take(&mut self, mut bytes: &[u8], note: &mut dyn FnMut(EventKind)) -> bool {
        while !bytes.is_empty() && !self.broken {
            if self.answered == self.asked {
                self.corrupt(bytes, note); // nobody asked for that
                break;
            }
            let have = (self.offset - self.begin) as usize;
            let len = self.dialogue.response_len(self.answered);
            let wanted = if have < HEAD_LEN { HEAD_LEN - have } else { len - have };
            let (now, rest) = bytes.split_at(wanted.min(bytes.len()));
            if have < HEAD_LEN {
                self.head.extend_from_slice(now);
                if let Ok(head) = <[u8; HEAD_LEN]>::try_from(self.head.as_slice()) {
                    self.take_head(&Head::parse(&head), now, note);
                }
            } else if let Err(offset) =
                payload::verify(self.dialogue.id.0, Direction::Down, self.offset, now)
            {
                let wrong = &now[(offset - self.offset) as usize..];
                self.offset = offset;
                self.corrupt(wrong, note);
            }
            bytes = rest;
            if self.broken {
                break;
            }
            self.offset += now.len() as u64;
            if self.offset - self.begin == len as u64 {
                note(EventKind::Delivered { number: self.answered, bytes: len as u64 });
                self.answered += 1;
                self.begin = self.offset;
                self.head.clear();
            }
        }
        !self.broken
    }

    fn take_head(&mut self, head: &Head, bytes: &[u8], note: &mut dyn FnMut(EventKind)) {
        if head.id != self.dialogue.id || head.number != self.answered {
            let id = self.dialogue.id.0;
            match payload::belongs_to(id, Direction::Down, self.offset, bytes) {
                None if head.id != self.dialogue.id => {
                    note(EventKind::CrossTalk { of: head.id });
                    self.broken = true;
                }
                _ => self.corrupt(bytes, note),
            }
        } else if let Some(from) = self.backend.replace(head.identity)
            && from != head.identity
        {
            note(EventKind::BackendChanged { from, to: head.identity });
        }
    }

    fn corrupt(&mut self, bytes: &[u8], note: &mut dyn FnMut(EventKind)) {
        let id = self.dialogue.id.0;
        let belongs_to = payload::belongs_to(id, Direction::Down, self.offset, bytes);
        note(EventKind::Corrupt { offset: self.offset, belongs_to });
        self.broken = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::dialogue::{Ending, Volume};
    use crate::endpoint::event::ConnectionId;
    use crate::endpoint::service::Service;

    fn dialogue(id: u64) -> Dialogue {
        Dialogue {
            id: ConnectionId(id),
            client: "192.0.2.1:5".parse().unwrap(),
            requests: 3,
            volume: Volume::Small,
            ending: Ending::ClientCloses,
        }
    }

    /// An exchange that has asked twice, and the backend's two responses.
    fn asked() -> (Exchange, Vec<u8>, Vec<u8>) {
        let mut exchange = Exchange::new(dialogue(1));
        exchange.ask();
        exchange.ask();
        let first = dialogue(1).response(0, 0, 7);
        let second = dialogue(1).response(1, first.len() as u64, 7);
        (exchange, first, second)
    }

    fn kinds(exchange: &mut Exchange, bytes: &[u8]) -> Vec<EventKind> {
        let mut kinds = Vec::new();
        exchange.take(bytes, &mut |kind| kinds.push(kind));
        kinds
    }

    fn delivered(number: u32, bytes: &[u8]) -> EventKind {
        EventKind::Delivered { number, bytes: bytes.len() as u64 }
    }

    #[test]
    fn responses_however_cut() {
        for cut in [1, 3, 16, 17, 100, 5_000] {
            let (mut exchange, first, second) = asked();
            let mut got = Vec::new();
            for piece in [first.as_slice(), &second].concat().chunks(cut) {
                got.extend(kinds(&mut exchange, piece));
            }
            assert_eq!(got, [delivered(0, &first), delivered(1, &second)], "{cut}");
            assert!(!exchange.complete());
        }
    }

    #[test]
    fn another_backend_in_the_same_stream() {
        let (mut exchange, first, _) = asked();
        let second = dialogue(1).response(1, first.len() as u64, 8);
        kinds(&mut exchange, &first);
        let got = kinds(&mut exchange, &second);
        assert_eq!(got, [EventKind::BackendChanged { from: 7, to: 8 }, delivered(1, &second)]);
    }

    #[test]
    fn a_response_for_another_connection() {
        let (mut exchange, ..) = asked();
        let of = ConnectionId(2);
        let got = kinds(&mut exchange, &dialogue(2).response(0, 0, 7));
        assert_eq!(got, [EventKind::CrossTalk { of }]);
    }

    #[test]
    fn a_response_twice_or_too_early_or_damaged() {
        let (mut exchange, first, second) = asked();
        kinds(&mut exchange, &first);
        let got = kinds(&mut exchange, &first);
        assert!(matches!(got[..], [EventKind::Corrupt { .. }]), "{got:?}");

        let (mut exchange, ..) = asked();
        let got = kinds(&mut exchange, &second);
        assert!(matches!(got[..], [EventKind::Corrupt { offset: 0, .. }]), "{got:?}");

        let (mut exchange, first, _) = asked();
        let mut damaged = first;
        let last = damaged.len() - 1;
        damaged[last] ^= 1;
        let got = kinds(&mut exchange, &damaged);
        assert_eq!(got, [EventKind::Corrupt { offset: last as u64, belongs_to: None }]);
        assert_eq!(kinds(&mut exchange, &second), []);

        // A third response to two requests.
        let (mut exchange, first, second) = asked();
        let third = dialogue(1).response(2, (first.len() + second.len()) as u64, 7);
        kinds(&mut exchange, &[first, second].concat());
        let got = kinds(&mut exchange, &third);
        assert!(matches!(got[..], [EventKind::Corrupt { .. }]), "{got:?}");
    }

    #[test]
    fn the_backend_verifies_requests_and_answers_each_once() {
        for cut in [1, 47, 48, 49, 9_000] {
            let (mut exchange, mut service) = (Exchange::new(dialogue(1)), Service::new(7));
            let mut notes = 0;
            for number in 0..3 {
                for piece in exchange.ask().chunks(cut) {
                    assert!(service.take(1_000, piece, &mut |_| notes += 1));
                }
                assert_eq!(notes, number + 1);
                let response = service.respond(1_000_000).unwrap();
                assert!(exchange.take(&response, &mut |_| {}));
                assert_eq!(service.respond(1_000_000), None);
            }
            assert!(exchange.complete() && service.all_answered());
            let mut wrong = Vec::new();
            assert!(!service.take(2_000_000, b"more", &mut |kind| wrong.push(kind)));
            assert!(matches!(wrong[..], [EventKind::Corrupt { .. }]), "{wrong:?}");
        }
    }
}
