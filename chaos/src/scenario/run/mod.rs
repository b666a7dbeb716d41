//! One run of the scenario on a lab that stands: traffic, steps, measurements.

mod before;
mod guards;

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, bail};

use super::burst::{BEFORE_MS, Young};
use super::clients::Clients;
use super::draws::Draw;
use super::facts::Facts;
use super::faults::what;
use super::inject::follower::Frozen;
use super::inject::{self, Effect, Lasting, Victims, names};
use super::judge::{MARGIN_MS, Terms, judge_step, patience};
use super::progress::Progress;
use super::releases::Releases;
use super::report::{Age, Busy, Lane, StepReport};
use super::sampler::Sampler;
use super::series::Calm;
use super::steps::StepName;
use crate::clock::now_ms;
use crate::lab::plan::{Plan, Site, VIPS};
use crate::lab::{backends, describe};
use crate::router::monitor::Monitor;
use crate::router::paths;
use crate::router::trace::{Moves, Trace};
use crate::workload::messages::Look;
use crate::workload::record::{Cohort, LOST_AFTER_MS, Record};

/// How many connections of each kind there are. Downloads are opened anew for each step.
const COHORTS: [(Cohort, u32); 4] =
    [(Cohort::Echo, 160), (Cohort::Drip, 60), (Cohort::Idle, 60), (Cohort::Udp, 60)];
const DOWNLOADS: u32 = 20;
/// How long the phase without faults is (ms): as long as `kill-daemon` takes until all has settled.
const CALM_MS: u64 = 15_000;
/// Traffic comes up over this time (ms).
const RAMP_MS: u64 = 2_000;
/// How long it may take until all of it is there.
const COMING_UP_MS: u64 = 30_000;
/// When every daemon is gone, connections wait for new ones to start and for their own next
/// retransmission, which may be twice as late (ms).
const PATIENCE_WITHOUT_DAEMONS_MS: u64 = 40_000;
/// After a fault idle connections speak within this time (ms): early enough to be carried on while
/// the director is still away.
const SPEAK_MS: u64 = 2_000;

/// How a run is made.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The seed.
    pub seed: u64,
    /// Whether faults and changes are injected.
    pub inject: bool,
    /// Age from which a crash must not cost a connection (ms).
    pub replicate_after_ms: u64,
    /// How many young connections shall be on directors that fail, and how many have to be for the run
    /// to prove something.
    pub young: Young,
}

/// A run.
pub struct Run {
    /// The lab.
    pub plan: Plan,
    /// Tells people.
    pub progress: Progress,
    /// Watches the router's routes.
    pub monitor: Monitor,
    /// The directors that are drained.
    pub drained: BTreeSet<Site>,
    /// A fault that goes on for a while.
    pub lasting: Option<Lasting>,
    /// The director that stands still for long.
    pub frozen: Option<Frozen>,
    /// Whom the next crash is about.
    pub victims: Victims,
    /// Directors whose daemons were started anew although not every such step does so.
    pub restarted: Vec<Site>,
    settings: Settings,
    clients: Clients,
    began_ms: u64,
    facts: Vec<Facts>,
    releases: Releases,
    /// Releases before the first step.
    releases_before: u64,
    /// How long connections may be silent now.
    patience_ms: u64,
    sampler: Sampler,
    calm: Calm,
}

/// What is left of a run.
pub struct Ended {
    /// Everything that is remembered of the connections.
    pub records: Vec<Record>,
    /// What was measured of the steps.
    pub facts: Vec<Facts>,
    /// How it was made.
    pub terms: Terms,
    /// The phase without faults, before the first step.
    pub calm: Calm,
    /// What the directors said of themselves.
    pub lanes: Vec<Lane>,
    /// How busy the machine was.
    pub busy: Busy,
}

impl Run {
    /// Begins the traffic on a lab.
    pub async fn begin(
        plan: Plan,
        settings: Settings,
        progress: Progress,
        began_ms: u64,
    ) -> Result<Run> {
        let description = describe::describe(&plan).await?;
        let clients = Clients::start(&description.clients, &plan.dir())?;
        let monitor = Monitor::start(&plan.router()).await?;
        let mut sampler = Sampler::start(began_ms);
        sampler.follow(&plan);
        let mut run = Run {
            plan,
            progress,
            monitor,
            drained: BTreeSet::new(),
            lasting: None,
            frozen: None,
            victims: Victims::default(),
            restarted: Vec::new(),
            settings,
            clients,
            began_ms,
            facts: Vec::new(),
            releases: Releases::default(),
            releases_before: 0,
            patience_ms: LOST_AFTER_MS,
            sampler,
            calm: Calm::default(),
        };
        // What guards did while the lab was raised is no part of the run.
        let reading = run.read_releases("begin").await;
        run.releases.since(&reading, &[]);
        run.open_traffic().await?;
        Ok(run)
    }

    /// The directors that are not drained.
    pub fn serving(&self) -> impl Iterator<Item = Site> + '_ {
        self.plan.directors().filter(|d| !self.drained.contains(d))
    }

    /// These directors in the order in which the step hits them, as the seed decides.
    pub fn draw(&self, step: StepName, among: Vec<Site>) -> Vec<Site> {
        let before = self.facts.iter().filter(|f| f.name == step).count();
        Draw { seed: self.settings.seed, step, nth: before as u64 }.order(among)
    }

    async fn open_traffic(&mut self) -> Result<()> {
        let total: u32 = COHORTS.iter().map(|(_, count)| count).sum();
        let opened_ms = now_ms();
        self.calm = Calm { opened_ms, from_ms: opened_ms, until_ms: opened_ms };
        self.progress.say(&format!(
            "opening {total} connections, {DOWNLOADS} downloads for each step, \
             {} young connections a second",
            self.settings.young.per_second
        ));
        for (cohort, count) in COHORTS {
            self.clients.open(cohort, count, RAMP_MS, None).await?;
        }
        self.clients.young(self.settings.young.per_second).await?;
        let deadline = opened_ms + RAMP_MS + COMING_UP_MS;
        loop {
            let look = self.look(0, 0).await?;
            if look.open >= u64::from(total) {
                self.calm.from_ms = now_ms();
                self.calm.until_ms = self.calm.from_ms;
                return Ok(());
            }
            if look.lost > 0 || now_ms() > deadline {
                let (_, records) = self.clients.records().await?;
                bail!("the traffic does not come up: {}", why_not_up(&records));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What a crash step is without its fault: the same load, the same burst of young connections, for as long.
    pub async fn calm(&mut self) -> Result<()> {
        let text = format!(
            "what {} s are without a fault: the same load, and a burst of young connections",
            CALM_MS / 1000
        );
        self.progress.say(&text);
        self.begin_downloads().await?;
        self.burst(self.settings.young.burst, &[]).await?;
        self.calm.from_ms = now_ms();
        let there_ms = self.calm.from_ms.saturating_sub(self.old_ms());
        self.all_exchange(there_ms, self.calm.from_ms, true).await?;
        let left_ms = (self.calm.from_ms + CALM_MS).saturating_sub(now_ms());
        self.watch_for(left_ms).await?;
        self.calm.until_ms = now_ms();
        Ok(())
    }

    /// Begins downloads; they are old enough when the burst of young connections ends.
    async fn begin_downloads(&mut self) -> Result<()> {
        let file = backends::bulk_file(&self.plan);
        self.clients.open(Cohort::Bulk, DOWNLOADS, 500, Some(&file)).await?;
        self.watch_for((self.old_ms() + 700).saturating_sub(BEFORE_MS)).await
    }

    /// The age from which a crash must not cost a connection.
    fn old_ms(&self) -> u64 {
        self.settings.replicate_after_ms + MARGIN_MS
    }

    /// One step from its preparation to its judgement.
    pub async fn step(&mut self, step: StepName) -> Result<()> {
        let targets = inject::choose(self, step).await?;
        let name = step.name();
        let who = if targets.is_empty() { "the router".into() } else { names(&targets) };
        self.progress.say(&format!("{name}: {who} next: {}", what(step)));
        if self.settings.inject {
            inject::prepare(self, step, &targets).await?;
            self.sampler.follow(&self.plan);
        }
        self.begin_downloads().await?;
        self.releases_until_now(&format!("{name}-before")).await;
        self.patience_ms = patience_ms(step);

        let young = self.settings.young;
        let size = if step.is_crash() { young.burst } else { young.planned };
        let mut before = self.burst(size, &targets).await?;
        let vips: Vec<String> = VIPS.iter().map(ToString::to_string).collect();
        let mut trace = Trace::of(self.plan.router());
        trace.about(self.clients.incoming(&before.flows));
        trace.take(&before.paths, before.asked_ms);
        // In the moment of a crash nobody shall be busy but those who carry on what was lost.
        if !step.is_crash() {
            trace.follow(self.monitor.watcher(), vips.clone());
        }
        let mut effect = self.injected(step, &targets).await?;
        let routes = self.monitor.watcher();
        let flows = self.clients.flows(before.asked_ms).await?;
        let after = self.clients.paths(&self.plan.router(), &flows).await?;
        trace.about(self.clients.incoming(&flows));
        before.add(flows);
        trace.take(&before.paths, effect.begin_ms);
        trace.take(&after, effect.done_ms);
        if step.is_crash() {
            trace.follow(routes, vips.clone());
        }
        if self.monitor.history().changed(before.asked_ms, effect.begin_ms) {
            effect.missing.push("the router changed its routes just before it".into());
        }
        // Where nobody is left to carry them on, connections go on after the repair.
        let alone = step.is_crash() && self.serving().all(|d| effect.failed.contains(&d));
        if alone && step != StepName::KillAll {
            effect.notes.push("no other director was there to serve".into());
        }
        let mut facts = Facts {
            name: step,
            directors: targets.iter().map(|t| t.name()).collect(),
            begin_ms: effect.begin_ms,
            done_ms: effect.done_ms,
            repaired_ms: effect.done_ms,
            judged_ms: effect.done_ms,
            missing: Vec::new(),
            notes: Vec::new(),
            routes_moved_ms: effect.routes_moved_ms,
            bfd_ms: effect.bfd_ms,
            failed: effect.failed.iter().map(|t| t.name()).collect(),
            alone,
            before: before.paths,
            after,
            moves: Moves::new(),
            routes_changed: 0,
            patience_ms: self.patience_ms,
            guard_releases: 0,
            guard_releases_injected: 0,
        };
        let moved = effect.routes_moved_ms.map_or("not".into(), |ms| format!("in {ms} ms"));
        let changed = paths::changed(&facts.before, &facts.after).len();
        self.progress.say(&format!("{name}: routes moved {moved}, {changed} paths changed"));

        // Those that are too young for a crash may be lost; they are not waited for.
        let old_ms = if step.is_planned() { 0 } else { self.old_ms() };
        let there_ms = facts.begin_ms.saturating_sub(old_ms);
        if !alone {
            self.all_exchange(there_ms, facts.done_ms, true).await?;
        }
        self.trace_newcomers(&mut trace).await?;
        inject::outlast(self).await?;
        self.trace_newcomers(&mut trace).await?;
        if self.settings.inject
            && let Err(error) = inject::repair(self, step, &targets, &mut effect).await
        {
            effect.missing.push(format!("it was not repaired: {error:#}"));
        }
        facts.repaired_ms = now_ms();
        // Idle ones have their say in the next step, or at the end.
        self.all_exchange(there_ms, facts.repaired_ms, alone).await?;
        (facts.guard_releases, facts.guard_releases_injected) =
            self.releases_in_step(step, &targets, &mut effect).await;
        facts.judged_ms = now_ms();
        facts.routes_changed = self.monitor.history().changes_since(&vips, facts.begin_ms);
        match trace.moves() {
            Ok(moves) => facts.moves = moves,
            Err(error) => {
                effect.missing.push(format!("who changed director is unknown: {error:#}"))
            }
        }
        (facts.missing, facts.notes) = (effect.missing, effect.notes);
        self.tell(&facts).await?;
        let broken = facts.missing.iter().find(|m| m.starts_with("it was not repaired")).cloned();
        self.facts.push(facts);
        match broken {
            Some(why) => bail!("{name}: {why}"),
            None => Ok(()),
        }
    }

    async fn injected(&mut self, step: StepName, targets: &[Site]) -> Result<Effect> {
        if self.settings.inject {
            return inject::inject(self, step, targets).await;
        }
        let begin_ms = now_ms();
        let missing = vec!["nothing was injected (--no-inject)".into()];
        Ok(Effect { begin_ms, done_ms: begin_ms, missing, ..Effect::default() })
    }

    async fn look(&mut self, since_ms: u64, connected_before_ms: u64) -> Result<Look> {
        self.clients.look(since_ms, connected_before_ms, self.patience_ms).await
    }

    /// Watches the traffic for a while.
    async fn watch_for(&mut self, ms: u64) -> Result<()> {
        let until = now_ms() + ms;
        while now_ms() < until {
            let look = self.look(0, 0).await?;
            self.show(&look);
            let left = until.saturating_sub(now_ms()).min(500);
            tokio::time::sleep(Duration::from_millis(left)).await;
        }
        Ok(())
    }

    fn show(&self, look: &Look) {
        self.progress.now(&format!(
            "{} connections open, {} lost, longest silence beyond its gap {} ms, young lost {}",
            look.open, look.lost, look.overdue_ms, look.young_lost
        ));
    }

    /// Waits until every connection that was there at `there_ms` has exchanged something since
    /// `since_ms`, or is lost. Idle ones are told to speak, or left alone.
    async fn all_exchange(&mut self, there_ms: u64, since_ms: u64, idle: bool) -> Result<()> {
        if idle {
            self.clients.speak(since_ms, SPEAK_MS).await?;
        }
        loop {
            let look = self.look(since_ms, there_ms).await?;
            self.show(&look);
            if look.pending.iter().all(|(cohort, _)| *cohort == Cohort::Idle && !idle) {
                return Ok(());
            }
            // It ends: whoever stays silent is lost after a while, and no longer waited for.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Waits until downloads and young connections are over and everybody has spoken once more.
    pub async fn wind_down(&mut self) -> Result<()> {
        self.progress.say("winding down: the last downloads come to their end");
        self.clients.young(0).await?;
        let now = now_ms();
        self.all_exchange(now, now, true).await?;
        let deadline = now_ms() + 90_000;
        let downloads_take_ms = backends::BULK_SIZE as u64 * 1000 / backends::BULK_RATE;
        loop {
            let look = self.look(0, 0).await?;
            self.show(&look);
            if look.passing == 0 {
                return Ok(());
            }
            if now_ms() > deadline {
                bail!("downloads that take {downloads_take_ms} ms are still under way");
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Traffic and nothing else for a while; then everything that is remembered.
    pub async fn traffic_for(&mut self, ms: u64) -> Result<(u64, Vec<Record>)> {
        self.watch_for(ms).await?;
        self.progress.end();
        self.clients.records().await
    }

    /// Ends the run.
    pub async fn end(mut self) -> Result<Ended> {
        let (taken_ms, records) = self.clients.records().await?;
        self.progress.end();
        let (terms, calm) = (self.terms(taken_ms), self.calm);
        let (lanes, busy) = self.sampler.seen();
        Ok(Ended { records, facts: self.facts, terms, calm, lanes, busy })
    }

    fn terms(&self, taken_ms: u64) -> Terms {
        Terms {
            seed: self.settings.seed,
            replicate_after_ms: self.settings.replicate_after_ms,
            began_ms: self.began_ms,
            taken_ms,
            releases_before: self.releases_before,
            young_needed: self.settings.young.needed,
        }
    }

    async fn tell(&mut self, facts: &Facts) -> Result<()> {
        let (taken_ms, records) = self.clients.records().await?;
        let alone = std::slice::from_ref(facts);
        let report = judge_step(&records, facts, u64::MAX, &self.terms(taken_ms), &patience(alone));
        let eligible: u64 = report.cohorts.iter().map(|c| c.eligible).sum();
        let survived: u64 = report.cohorts.iter().map(|c| c.survived).sum();
        self.progress.say(&format!(
            "{}: {survived} of {eligible} eligible connections survived, {} taken over, stall p99 {} ms{}",
            facts.name.name(),
            report.eligible_taken_over,
            report.stall_ms.p99,
            facts.name.stall_bound_ms().map_or(String::new(), |ms| format!(" (bound {ms} ms)"))
        ));
        self.progress.say(&format!("  {}", young_ones(&report)));
        for line in report.notes.iter().chain(&report.losses) {
            self.progress.say(&format!("  {line}"));
        }
        Ok(())
    }
}

/// How long connections may be silent in a step.
fn patience_ms(step: StepName) -> u64 {
    match step {
        StepName::KillAll => PATIENCE_WITHOUT_DAEMONS_MS,
        _ => LOST_AFTER_MS,
    }
}

/// What became of those that are too young for the store.
fn young_ones(report: &StepReport) -> String {
    let ages = report.ages.iter().filter(|a| a.age != Age::Long);
    let each = ages.map(|a| {
        let (age, lost, moved_lost) = (a.age.name(), a.lost, a.moved_lost);
        format!("{age}: {lost} of {} lost, {moved_lost} of {} that moved", a.eligible, a.moved)
    });
    each.collect::<Vec<_>>().join("; ")
}

fn why_not_up(records: &[Record]) -> String {
    let bad: Vec<&Record> =
        records.iter().filter(|r| r.connected_ms.is_none() || r.ended.is_some()).collect();
    let Some(first) = bad.iter().find(|r| r.cohort != Cohort::Young).or(bad.first()) else {
        return "it is slow".into();
    };
    format!(
        "{} connections are not there, the first to {}: {}",
        bad.len(),
        first.remote,
        first.loss()
    )
}
