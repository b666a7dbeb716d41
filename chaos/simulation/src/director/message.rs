//! What directors say to each other.

use std::sync::Arc;

use holdfast_node::peers::Summary;
use holdfast_schema::flow::FlowKey;
use holdfast_schema::session::SessionRecord;
use holdfast_state_store::liveness::View;

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

/// An answer to a miss.
#[derive(Clone, Debug)]
pub enum Answer {
    /// This one.
    Found(Box<SessionRecord>),
    /// I have none.
    No,
    /// I cannot be sure.
    DontKnow,
}

impl Message {
    /// Whether it goes by itself, whatever became of those before it.
    pub fn alone(&self) -> bool {
        matches!(self, Message::Heartbeat { .. })
    }

    /// What it is, in a word.
    pub fn word(&self) -> &'static str {
        match self {
            Message::Heartbeat { .. } => "heartbeat",
            Message::Ask { .. } => "ask",
            Message::Answer { answer: Answer::Found(_), .. } => "found",
            Message::Answer { answer: Answer::No, .. } => "no",
            Message::Answer { answer: Answer::DontKnow, .. } => "dont-know",
            Message::Flush(_) => "flush?",
            Message::Flushed(_, true) => "flushed",
            Message::Flushed(_, false) => "not-flushed",
            Message::Applied => "applied?",
            Message::AppliedTo(_) => "applied",
            Message::Summary(_) => "summary",
        }
    }
}
