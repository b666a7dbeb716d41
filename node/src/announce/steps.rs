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

/// A drain under way. It never announces more than was announced when it began, and it takes
/// nothing away while nobody else could serve, or while it knows sessions that nobody else does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Drain {
    step: DrainStep,
    since_ms: u64,
    /// What was announced when it began.
    full: Wish,
    /// When BIRD showed what this step wants.
    shown_ms: Option<u64>,
    /// The routers did not heed the signal: VIPs are withdrawn while forwarding goes on.
    withdrawn: bool,
    /// The planned change for which all have flushed.
    flushed: Option<u64>,
    /// What it waits for now.
    held: Option<String>,
    notes: Vec<String>,
}

impl Drain {
    /// A drain that begins now, with this announced.
    pub fn new(full: Wish, now_ms: u64) -> Drain {
        Drain {
            step: DrainStep::Waiting,
            since_ms: now_ms,
            full,
            shown_ms: None,
            withdrawn: false,
            flushed: None,
            held: None,
            notes: Vec::new(),
        }
    }

    /// Where it is.
    pub fn step_now(&self) -> DrainStep {
        self.step
    }

    /// What it waits for, and what an operator should know.
    pub fn notes(&self) -> Vec<String> {
        self.held.iter().chain(&self.notes).cloned().collect()
    }

    fn enter(&mut self, step: DrainStep, now_ms: u64) {
        tracing::info!(from = self.step.word(), to = step.word(), "drain step");
        self.step = step;
        self.restart(now_ms);
    }

    /// The time of this step begins now.
    fn restart(&mut self, now_ms: u64) {
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
        self.held = None;
        match self.step {
            DrainStep::Waiting => {
                match planned {
                    None => out.asks.push(Ask::Begin(PlannedKind::Drain)),
                    Some(_) if inputs.others_drain_first => {
                        self.held = Some("another drain goes first".to_owned());
                    }
                    Some(_) => self.enter(DrainStep::Flushing, now),
                }
                self.full
            }
            DrainStep::Flushing => {
                if planned.is_none() {
                    self.enter(DrainStep::Waiting, now);
                } else if self.all_flushed(inputs, planned, out) {
                    self.enter(DrainStep::MovingVotes, now);
                }
                self.full
            }
            DrainStep::MovingVotes => {
                let elapsed = now.saturating_sub(self.since_ms);
                if inputs.votes == 0 {
                    self.enter(DrainStep::VipsWorse, now);
                } else if !inputs.votes_movable || elapsed >= VOTES_MS {
                    self.note("it stays a voter: there is nobody to take its place");
                    self.enter(DrainStep::VipsWorse, now);
                }
                self.full
            }
            DrainStep::VipsWorse | DrainStep::LipsWorse | DrainStep::Quiet | DrainStep::Drained => {
                self.give_away(inputs, planned, out)
            }
        }
    }

    /// The steps that take something away.
    fn give_away(&mut self, inputs: &Inputs, planned: Option<u64>, out: &mut Outputs) -> Wish {
        let now = inputs.now_ms;
        if self.full.any() {
            if self.alone(inputs) {
                self.restart(now);
                return self.wish();
            }
            let worse = matches!(self.step, DrainStep::VipsWorse | DrainStep::LipsWorse);
            if worse && !self.all_flushed(inputs, planned, out) {
                self.held = Some("waiting until all directors have flushed again".to_owned());
                self.restart(now);
                return self.wish();
            }
        }
        if self.step == DrainStep::Drained {
            return self.wish();
        }
        out.awaiting_bird = self.shown_ms.is_none();
        let heeded = match self.step {
            DrainStep::VipsWorse => inputs.shown.is_none_or(|s| s.vips <= Level::Draining),
            DrainStep::LipsWorse => inputs.shown.is_none_or(|s| s.lips <= Level::Draining),
            _ => inputs.shown.is_none_or(|s| !s.any()),
        };
        if heeded {
            self.shown_ms.get_or_insert(now);
        }
        let shown_for = self.shown_ms.map(|at| now - at);
        let elapsed = now.saturating_sub(self.since_ms);
        let replicated = self.replicated(inputs);
        let (over, next) = match self.step {
            DrainStep::VipsWorse => {
                (self.vips_moved(inputs, shown_for, elapsed, replicated), DrainStep::LipsWorse)
            }
            DrainStep::LipsWorse => (self.lips_moved(inputs, shown_for, elapsed), DrainStep::Quiet),
            _ => (self.is_quiet(inputs, shown_for, elapsed), DrainStep::Drained),
        };
        let wish = self.wish();
        if over && replicated {
            self.enter(next, now);
        }
        wish
    }

    /// What this step announces.
    fn wish(&self) -> Wish {
        let worse = |level: Level| level.min(Level::Draining);
        let vips = if self.withdrawn { Level::Nothing } else { worse(self.full.vips) };
        match self.step {
            DrainStep::VipsWorse => Wish { vips, lips: self.full.lips },
            DrainStep::LipsWorse => Wish { vips, lips: worse(self.full.lips) },
            DrainStep::Quiet | DrainStep::Drained => Wish::default(),
            DrainStep::Waiting | DrainStep::Flushing | DrainStep::MovingVotes => self.full,
        }
    }

    /// Nobody else could serve: then this director stays the last resort, or becomes it again.
    fn alone(&mut self, inputs: &Inputs) -> bool {
        let Err(why) = &inputs.others_serve else { return false };
        if matches!(self.step, DrainStep::Quiet | DrainStep::Drained) {
            self.enter(DrainStep::LipsWorse, inputs.now_ms);
        }
        self.withdrawn = false;
        self.held = Some(format!("it stays the last resort: nobody else can serve ({why})"));
        true
    }

    /// Whether all have flushed for the planned change. If it was ended while the drain was held up
    /// (it took too long), another one is needed: sessions may have come that only one director knows.
    fn all_flushed(&mut self, inputs: &Inputs, planned: Option<u64>, out: &mut Outputs) -> bool {
        match planned {
            None => out.asks.push(Ask::Begin(PlannedKind::Drain)),
            Some(_) if self.flushed == planned => {}
            Some(_) => {
                out.flush = planned;
                if inputs.flushed == planned {
                    self.flushed = planned;
                }
            }
        }
        planned.is_some() && self.flushed == planned
    }

    /// Whether others know every session. While new ones keep arriving there is always one on its
    /// way; with a leader in every group it arrives.
    fn replicated(&mut self, inputs: &Inputs) -> bool {
        let on_its_way = inputs.quorum && inputs.quiet_new_ms < NO_NEW_MS;
        let replicated = inputs.unreplicated == 0 || on_its_way;
        if !replicated {
            self.held = Some(format!(
                "{} sessions are known to this director only: it waits until they are replicated",
                inputs.unreplicated
            ));
        }
        replicated
    }

    fn vips_moved(
        &mut self,
        inputs: &Inputs,
        shown_for: Option<u64>,
        elapsed: u64,
        replicated: bool,
    ) -> bool {
        let still_comes = inputs.quiet_clients_ms < QUIET_MS;
        let heeded = shown_for.is_some_and(|ms| ms >= SIGNAL_MS);
        if heeded && still_comes && replicated && !self.withdrawn {
            self.note(
                "the router ignores GRACEFUL_SHUTDOWN and prepending: VIPs were withdrawn instead",
            );
            self.withdrawn = true;
        }
        let calm = inputs.quiet_new_ms >= NO_NEW_MS && !still_comes;
        let moved = shown_for.is_some_and(|ms| ms >= QUIET_MS) && calm;
        !self.full.any() || moved || elapsed >= STEP_MS
    }

    fn lips_moved(&mut self, inputs: &Inputs, shown_for: Option<u64>, elapsed: u64) -> bool {
        let shown_for = shown_for.unwrap_or(0);
        let moved = shown_for >= QUIET_MS && inputs.quiet_all_ms >= QUIET_MS;
        !self.full.any() || moved || shown_for >= SIGNAL_MS || elapsed >= STEP_MS
    }

    fn is_quiet(&mut self, inputs: &Inputs, shown_for: Option<u64>, elapsed: u64) -> bool {
        let quiet = inputs.quiet_all_ms >= QUIET_MS && elapsed >= QUIET_MS;
        let over = shown_for.is_some() && quiet || elapsed >= STEP_MS;
        if over && !quiet {
            self.note("packets still arrive although nothing is announced");
        }
        over
    }
}
