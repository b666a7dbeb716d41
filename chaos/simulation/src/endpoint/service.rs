//! The backend's side of a dialogue: requests verified, responses out.

use std::collections::VecDeque;

use super::dialogue::{Dialogue, PREAMBLE_LEN};
use super::event::EventKind;
use super::payload::{self, Direction};

/// How far a backend has come with a connection.
#[derive(Clone, Default, Debug)]
pub(super) struct Service {
    identity: u32,
    dialogue: Option<Dialogue>,
    preamble: Vec<u8>,
    /// Requests that arrived whole, where the next one begins, and how far it has come.
    received: u32,
    begin: u64,
    offset: u64,
    /// Requests that wait for their response: when it is due.
    due: VecDeque<(u64, u32)>,
    answered: u32,
    answered_bytes: u64,
    broken: bool,
}

impl Service {
    pub(super) fn new(identity: u32) -> Service {
        Service { identity, ..Service::default() }
    }

    /// The dialogue, once its preamble has arrived.
    pub(super) fn dialogue(&self) -> Option<&Dialogue> {
        self.dialogue.as_ref()
    }

    /// Whether all requests have arrived.
    pub(super) fn all_received(&self) -> bool {
        self.dialogue.is_some_and(|dialogue| self.received == u32::from(dialogue.requests))
    }

    /// Whether the client may have sent its last request.
    pub(super) fn last_may_be_sent(&self) -> bool {
        self.dialogue.is_some_and(|dialogue| self.received + 1 >= u32::from(dialogue.requests))
    }

    /// Whether all responses were written.
    pub(super) fn all_answered(&self) -> bool {
        self.all_received() && self.answered == self.received
    }

    /// Whether nothing waits for its response.
    pub(super) fn idle(&self) -> bool {
        self.due.is_empty()
    }

    /// When the next response is due.
    pub(super) fn next_us(&self) -> Option<u64> {
        self.due.front().map(|(due_us, _)| *due_us)
    }

    /// The next response that is due.
    pub(super) fn respond(&mut self, now_us: u64) -> Option<Vec<u8>> {
        let dialogue = self.dialogue?;
        let (_, number) = *self.due.front().filter(|(due_us, _)| *due_us <= now_us)?;
        self.due.pop_front();
        let response = dialogue.response(number, self.answered_bytes, self.identity);
        self.answered += 1;
        self.answered_bytes += response.len() as u64;
        Some(response)
    }

    /// Takes bytes of the client's stream. False: they are wrong, nothing more can be made of it.
    pub(super) fn take(
        &mut self,
        now_us: u64,
        mut bytes: &[u8],
        note: &mut dyn FnMut(EventKind),
    ) -> bool {
        if self.dialogue.is_none() && !self.broken {
            let wanted = PREAMBLE_LEN - self.preamble.len();
            let (now, rest) = bytes.split_at(wanted.min(bytes.len()));
            self.preamble.extend_from_slice(now);
            self.offset += now.len() as u64;
            bytes = rest;
            if let Ok(preamble) = <[u8; PREAMBLE_LEN]>::try_from(self.preamble.as_slice()) {
                self.dialogue = Dialogue::parse(&preamble);
                if self.dialogue.is_none() {
                    note(EventKind::Corrupt { offset: 0, belongs_to: None });
                    self.broken = true;
                }
                self.finish_request(now_us, note);
            }
        }
        while let Some(dialogue) = self.dialogue
            && !bytes.is_empty()
            && !self.broken
        {
            let left = match self.all_received() {
                true => 0,
                false => self.begin + dialogue.request_len(self.received) as u64 - self.offset,
            };
            let (now, rest) = bytes.split_at((left as usize).min(bytes.len()));
            let wrong = match payload::verify(dialogue.id.0, Direction::Up, self.offset, now) {
                _ if left == 0 => Some(self.offset), // behind the last request
                verdict => verdict.err(),
            };
            if let Some(offset) = wrong {
                let at = (offset - self.offset) as usize;
                let belongs_to =
                    payload::belongs_to(dialogue.id.0, Direction::Up, offset, &bytes[at..]);
                note(EventKind::Corrupt { offset, belongs_to });
                self.broken = true;
                break;
            }
            self.offset += now.len() as u64;
            bytes = rest;
            self.finish_request(now_us, note);
        }
        !self.broken
    }

    fn finish_request(&mut self, now_us: u64, note: &mut dyn FnMut(EventKind)) {
        let Some(dialogue) = self.dialogue else { return };
        let len = dialogue.request_len(self.received) as u64;
        if self.offset - self.begin == len {
            note(EventKind::Delivered { number: self.received, bytes: len });
            self.due.push_back((now_us + dialogue.think_us(self.received), self.received));
            self.received += 1;
            self.begin = self.offset;
        }
    }
}
