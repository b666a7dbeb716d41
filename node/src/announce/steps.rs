//! The steps of a drain (PROTOCOLS, "Draining"): pure.

use super::machine::{Ask, Inputs, Outputs};
use super::wish::{Level, Wish};
use holdfast_schema::cluster::PlannedKind;

/// How long a drain waits for its votes to move before it goes on with them.
const VOTES_MS: u64 = 5_000;

/// How long the routers have to move the clients before the VIPs are simply withdrawn.
const SIGNAL_MS: u64 = 2_000;

/// No new session and nothing unreplicated for this long ends the VIP step.
const NO_NEW_MS: u64 = 1_000;

/// "No packet for a moment."
const QUIET_MS: u64 = 300;

/// The longest the VIP step, the LIP step, and the quiet step take each.
const STEP_MS: u64 = 8_000;

/// Where a drain is. The names are part of the admin API.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DrainStep {
    /// Another drain is under way and goes first, or the cluster has not begun this one.
    Waiting,
    /// Every director replicates what only it knows.
    Flushing,
    /// The groups choose other voters.
    MovingVotes,
    /// VIPs are announced as the last resort.
    VipsWorse,
    /// LIPs too.
    LipsWorse,
    /// Everything is withdrawn; the last packets pass.
    Quiet,
    /// Done.
    Drained,
}

impl DrainStep {
    /// The word of the admin API.
    pub fn word(self) -> &'static str {
        match self {
            DrainStep::Waiting => "waiting",
            DrainStep::Flushing => "flushing",
            DrainStep::MovingVotes => "moving-votes",
            DrainStep::VipsWorse => "vips-worse",
            DrainStep::LipsWorse => "lips-worse",
            DrainStep::Quiet => "quiet",
            DrainStep::Drained => "drained",
        }
    }
}

/// A drain under way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Drain {
    step: DrainStep,
    since_ms: u64,
    /// Nothing was announced when it began.
    unannounced: bool,
    /// When BIRD showed what this step wants.
    shown_ms: Option<u64>,
    /// The routers did not heed the signal: VIPs are withdrawn while forwarding goes on.
    withdrawn: bool,
    notes: Vec<String>,
}

impl Drain {
    /// A drain that begins now.
    pub fn new(unannounced: bool, now_ms: u64) -> Drain {
        Drain {
            step: DrainStep::Waiting,
            since_ms: now_ms,
            unannounced,
            shown_ms: None,
            withdrawn: false,
            notes: Vec::new(),
        }
    }

    /// Where it is.
    pub fn step_now(&self) -> DrainStep {
        self.step
    }

    /// What it waits for, or what an operator should know.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    fn enter(&mut self, step: DrainStep, now_ms: u64) {
        tracing::info!(from = self.step.word(), to = step.word(), "drain step");
        self.step = step;
        self.since_ms = now_ms;
        self.shown_ms = None;
    }

    fn note(&mut self, note: &str) {
        if !self.notes.iter().any(|n| n == note) {
            self.notes.push(note.to_owned());
        }
    }

    /// One step; `planned` is this drain's planned change, once committed.
    pub fn step(&mut self, inputs: &Inputs, planned: Option<u64>, out: &mut Outputs) -> Wish {
        let now = inputs.now_ms;
        let elapsed = now.saturating_sub(self.since_ms);
        let full = match self.unannounced {
            true => Wish::default(),
            false => Wish { vips: Level::Normal, lips: Level::Normal },
        };
        match self.step {
            DrainStep::Waiting => {
                match planned {
                    None => out.asks.push(Ask::Begin(PlannedKind::Drain)),
                    Some(_) if inputs.others_drain_first => self.note("another drain goes first"),
                    Some(_) => self.enter(DrainStep::Flushing, now),
                }
                full
            }
            DrainStep::Flushing => {
                match planned {
                    None => self.enter(DrainStep::Waiting, now),
                    Some(id) => {
                        out.flush = Some(id);
                        if inputs.flushed == Some(id) {
                            self.enter(DrainStep::MovingVotes, now);
                        }
                    }
                }
                full
            }
            DrainStep::MovingVotes => {
                if inputs.votes == 0 {
                    self.enter(DrainStep::VipsWorse, now);
                } else if !inputs.votes_movable || elapsed >= VOTES_MS {
                    self.note("it stays a voter: there is nobody to take its place");
                    self.enter(DrainStep::VipsWorse, now);
                }
                full
            }
            DrainStep::VipsWorse => self.vips_worse(inputs, elapsed, out),
            DrainStep::LipsWorse => self.lips_worse(inputs, elapsed, out),
            DrainStep::Quiet => {
                out.awaiting_bird = true;
                let gone = inputs.shown.is_none_or(|s| !s.any());
                let quiet = inputs.quiet_all_ms >= QUIET_MS && elapsed >= QUIET_MS;
                if gone && quiet || elapsed >= STEP_MS {
                    if !quiet {
                        self.note("packets still arrive although nothing is announced");
                    }
                    self.enter(DrainStep::Drained, now);
                }
                Wish::default()
            }
            DrainStep::Drained => Wish::default(),
        }
    }

    fn vips_worse(&mut self, inputs: &Inputs, elapsed: u64, out: &mut Outputs) -> Wish {
        let now = inputs.now_ms;
        out.awaiting_bird = self.shown_ms.is_none();
        if inputs.shown.is_none_or(|s| s.vips <= Level::Draining) {
            self.shown_ms.get_or_insert(now);
        }
        let shown_for = self.shown_ms.map_or(0, |at| now - at);
        let still_comes = inputs.quiet_clients_ms < QUIET_MS;
        if shown_for >= SIGNAL_MS && still_comes && !self.withdrawn {
            self.note(
                "the router ignores GRACEFUL_SHUTDOWN and prepending: VIPs were withdrawn instead",
            );
            self.withdrawn = true;
        }
        let calm = inputs.quiet_new_ms >= NO_NEW_MS && inputs.unreplicated == 0;
        let moved = self.unannounced || (shown_for >= QUIET_MS && calm && !still_comes);
        if moved || elapsed >= STEP_MS {
            if inputs.unreplicated > 0 {
                self.note("some sessions could not be replicated in time");
            }
            self.enter(DrainStep::LipsWorse, now);
        }
        let vips = match self.unannounced || self.withdrawn {
            true => Level::Nothing,
            false => Level::Draining,
        };
        let lips = if self.unannounced { Level::Nothing } else { Level::Normal };
        Wish { vips, lips }
    }

    fn lips_worse(&mut self, inputs: &Inputs, elapsed: u64, out: &mut Outputs) -> Wish {
        let now = inputs.now_ms;
        out.awaiting_bird = self.shown_ms.is_none();
        if inputs.shown.is_none_or(|s| s.lips <= Level::Draining) {
            self.shown_ms.get_or_insert(now);
        }
        let shown_for = self.shown_ms.map_or(0, |at| now - at);
        let moved = shown_for >= QUIET_MS && inputs.quiet_all_ms >= QUIET_MS;
        if self.unannounced || moved || shown_for >= SIGNAL_MS || elapsed >= STEP_MS {
            self.enter(DrainStep::Quiet, now);
        }
        match self.unannounced {
            true => Wish::default(),
            false => Wish {
                vips: if self.withdrawn { Level::Nothing } else { Level::Draining },
                lips: Level::Draining,
            },
        }
    }
}
