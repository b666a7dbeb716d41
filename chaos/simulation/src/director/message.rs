//! What directors say to each other.

use std::sync::Arc;

use holdfast_node::peers::Summary;
use holdfast_schema::flow::FlowKey;
use holdfast_state_store::codec::wire::{Register, Registration};
use holdfast_state_store::homes::Answer;
use holdfast_state_store::liveness::View;
use holdfast_state_store::peer::Lane;

use super::share::Mail;
use crate::plan::Stream;

/// A message.
#[derive(Clone, Debug)]
pub enum Message {
    /// I live, and this is whom I hear.
    Heartbeat {
        /// The sender's.
        incarnation: u64,
        /// Orders them.
        sequence: u64,
        /// Whom it hears.
        views: Vec<View>,
    },
    /// Who knows this session?
    Ask {
        /// Names the question.
        id: u64,
        /// Either direction.
        key: FlowKey,
    },
    /// What came of that.
    Answer {
        /// Which question.
        id: u64,
        /// The answer.
        answer: Answer,
    },
    /// Young sessions of the sender, whose home the other one is.
    Register(Register),
    /// What a home has to say about that.
    Registration(Registration),
    /// Something of the store.
    Store(Mail),
    /// Have you replicated everything for this planned change?
    Flush(u64),
    /// Whether.
    Flushed(u64, bool),
    /// How far have you applied the shards?
    Applied,
    /// So far.
    AppliedTo(Vec<u64>),
    /// How the sender is.
    Summary(Arc<Summary>),
}

impl Message {
    /// Whether it goes by itself, whatever became of those before it.
    pub fn alone(&self) -> bool {
        matches!(self, Message::Heartbeat { .. })
    }

    /// Which of the connections between two directors it takes; each keeps its order, in good weather.
    pub fn lane(&self) -> u8 {
        match self {
            Message::Store(Mail::Message(..)) => 1,
            Message::Store(Mail::Snapshot(..)) => 2,
            _ => 0,
        }
    }

    /// Which stream brings it, if it is one of those that bring many; a heartbeat, a request, its answer and a
    /// snapshot have one for themselves, and wait for nothing else.
    pub fn stream(&self) -> Option<Stream> {
        match self {
            Message::Store(Mail::Message(Lane::Log, _)) => Some(Stream::Log),
            Message::Store(Mail::Message(Lane::Control, _))
            | Message::Register(_)
            | Message::Registration(_)
            | Message::Summary(_) => Some(Stream::Control),
            _ => None,
        }
    }

    /// What the trace says of it; none: it is not worth a word.
    pub fn word(&self) -> Option<&'static str> {
        Some(match self {
            Message::Heartbeat { .. } | Message::Summary(_) | Message::Store(Mail::Message(..)) => {
                return None;
            }
            Message::Register(batch) if batch.records.is_empty() => return None,
            Message::Register(_) => "register",
            Message::Registration(_) => "registration",
            Message::Store(Mail::Snapshot(..)) => "snapshot",
            Message::Store(Mail::Arrived(_)) => "snapshot-arrived",
            Message::Store(Mail::Command(_)) => "command",
            Message::Store(Mail::Barrier(..)) => "barrier?",
            Message::Store(Mail::BarrierAt(..)) => "barrier",
            Message::Store(Mail::AskForms) => "forms?",
            Message::Store(Mail::Forms(_)) => "forms",
            Message::Ask { .. } => "ask",
            Message::Answer { answer: Answer::Found(_), .. } => "found",
            Message::Answer { answer: Answer::No { as_leader: true, .. }, .. } => "no-as-leader",
            Message::Answer { answer: Answer::No { as_home: true, .. }, .. } => "no-as-home",
            Message::Answer { answer: Answer::No { .. }, .. } => "no",
            Message::Answer { .. } => "dont-know",
            Message::Flush(_) => "flush?",
            Message::Flushed(_, true) => "flushed",
            Message::Flushed(_, false) => "not-flushed",
            Message::Applied => "applied?",
            Message::AppliedTo(_) => "applied",
        })
    }
}
