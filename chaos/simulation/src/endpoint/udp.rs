//! UDP flows: numbered requests that are sent again until they are answered.

use super::datagram::Datagram;
use super::dialogue::{Dialogue, HEAD_LEN, Head, PREAMBLE_LEN};
use super::event::{ConnectionId, EventKind};
use super::payload::{self, Direction};
use super::plan::ConnectionPlan;
use super::tcp::TcpConfig;
use super::timers::{Expiry, Retransmission};

/// Offsets of the datagrams of a flow are this far apart.
const STRIDE: u64 = 4_096;

/// Longest interval between two tries.
const RETRY_MOST_US: u64 = 5_000_000;

/// A request as the backend reads it: preamble, number, which backend answered before (0: none), body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) dialogue: Dialogue,
    pub(super) number: u32,
    pub(super) served_by: u32,
}

const REQUEST_HEAD_LEN: usize = PREAMBLE_LEN + 8;

impl Request {
    fn encode(&self) -> Vec<u8> {
        let offset = u64::from(self.number) * STRIDE;
        let len = self.dialogue.request_len(self.number);
        let mut bytes = self.dialogue.preamble().to_vec();
        bytes.extend_from_slice(&self.number.to_be_bytes());
        bytes.extend_from_slice(&self.served_by.to_be_bytes());
        payload::append(self.dialogue.id.0, Direction::Up, offset, len, &mut bytes);
        bytes
    }

    /// Reads a request, verified.
    pub(super) fn parse(bytes: &[u8]) -> Result<Request, EventKind> {
        let corrupt = |offset| EventKind::Corrupt { offset, belongs_to: None };
        let (head, body) = bytes.split_first_chunk::<REQUEST_HEAD_LEN>().ok_or(corrupt(0))?;
        let dialogue = head.first_chunk().and_then(Dialogue::parse).ok_or(corrupt(0))?;
        let word = |at: usize| u32::from_be_bytes([0, 1, 2, 3].map(|i| head[at + i]));
        let (number, served_by) = (word(PREAMBLE_LEN), word(PREAMBLE_LEN + 4));
        if number >= u32::from(dialogue.requests) || body.len() != dialogue.request_len(number) {
            return Err(corrupt(0));
        }
        let offset = u64::from(number) * STRIDE;
        payload::verify(dialogue.id.0, Direction::Up, offset, body).map_err(corrupt)?;
        Ok(Request { dialogue, number, served_by })
    }

    /// The response of a backend.
    pub(super) fn response(&self, identity: u32) -> Vec<u8> {
        self.dialogue.response(self.number, u64::from(self.number) * STRIDE, identity)
    }
}

/// A flow at the client.
#[derive(Clone, Debug)]
pub(super) struct Flow {
    pub(super) plan: ConnectionPlan,
    /// The request that is sent next, or awaits its answer.
    number: u32,
    /// When it is sent for the first time; None: it was.
    send_at_us: Option<u64>,
    timer: Retransmission,
    backend: Option<u32>,
    /// Nothing more is to be said.
    pub(super) finished: bool,
}

/// What has become of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    Lives,
    Closed,
    TimedOut,
}

impl Flow {
    pub(super) fn new(plan: ConnectionPlan, config: &TcpConfig, now_us: u64) -> Flow {
        let timer = Retransmission::new(
            config.retransmit_us * 2,
            config.retransmit_most_us.min(RETRY_MOST_US),
            config.give_up_syn_us,
        );
        Flow { plan, number: 0, send_at_us: Some(now_us), timer, backend: None, finished: false }
    }

    pub(super) fn id(&self) -> ConnectionId {
        self.plan.dialogue.id
    }

    pub(super) fn next_us(&self) -> Option<u64> {
        if self.finished { None } else { self.send_at_us.or(self.timer.deadline_us()) }
    }

    /// Whether any request was answered.
    pub(super) fn answered(&self) -> bool {
        self.backend.is_some()
    }

    /// Pauses end now.
    pub(super) fn hurry(&mut self, now_us: u64) {
        self.send_at_us = self.send_at_us.map(|at_us| at_us.min(now_us));
    }

    /// Sends what is due.
    pub(super) fn tick(
        &mut self,
        now_us: u64,
        out: &mut Vec<Vec<u8>>,
        note: &mut dyn FnMut(EventKind),
    ) -> Fate {
        if self.send_at_us.is_some_and(|at_us| at_us <= now_us) {
            self.send_at_us = None;
            self.timer.start(now_us);
            out.push(self.request());
        }
        match self.timer.expire(now_us) {
            Expiry::NotDue => Fate::Lives,
            Expiry::Again => {
                note(EventKind::DatagramRepeated);
                out.push(self.request());
                Fate::Lives
            }
            Expiry::GiveUp => Fate::TimedOut,
        }
    }

    fn request(&self) -> Vec<u8> {
        let dialogue = self.plan.dialogue;
        let served_by = self.backend.unwrap_or(0);
        let payload = Request { dialogue, number: self.number, served_by }.encode();
        Datagram { src: dialogue.client, dst: self.plan.target, payload: &payload }.encode()
    }

    /// Takes a response; `pause_us` is the time before the next request.
    pub(super) fn receive(
        &mut self,
        now_us: u64,
        bytes: &[u8],
        pause_us: u64,
        note: &mut dyn FnMut(EventKind),
    ) -> Fate {
        let corrupt = |offset| EventKind::Corrupt { offset, belongs_to: None };
        let Some((head, body)) = bytes.split_first_chunk::<HEAD_LEN>() else {
            note(corrupt(0));
            return Fate::Lives;
        };
        let (id, head) = (self.id(), Head::parse(head));
        if head.id != id {
            note(EventKind::CrossTalk { of: head.id });
            return Fate::Lives;
        }
        let offset = u64::from(head.number) * STRIDE + HEAD_LEN as u64;
        let verdict = payload::verify(id.0, Direction::Down, offset, body);
        let len = self.plan.dialogue.response_len(head.number);
        if head.number > self.number || bytes.len() != len || verdict.is_err() {
            note(corrupt(verdict.err().unwrap_or(offset)));
            return Fate::Lives;
        }
        if let Some(from) = self.backend.replace(head.identity)
            && from != head.identity
        {
            note(EventKind::BackendChanged { from, to: head.identity });
        }
        // An earlier one comes twice if the request was sent again, or the network doubled it.
        if head.number == self.number && self.send_at_us.is_none() {
            note(EventKind::Delivered { number: head.number, bytes: len as u64 });
            self.timer.progress(now_us, false);
            self.number += 1;
            if self.number == u32::from(self.plan.dialogue.requests) {
                return Fate::Closed;
            }
            self.send_at_us = Some(now_us + pause_us);
        }
        Fate::Lives
    }
}
