//! Losses that are nobody's fault: why, of which connection, and how often that was said.
//!
//! An excuse is for a connection that only a director knows, or knew, which could tell nobody: for as
//! long as that is so, and for nothing but a loss. Nothing excuses a wrong backend, damage, or a reset
//! while anybody knows the session. (Whoever learns of one from an old log that had expired everywhere
//! brings nothing back.)

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use holdfast_schema::session::{SessionRecord, SessionSink};

use super::World;
use super::happening::Place;
use super::marks::Mark;
use super::trace::FlowId;
use super::unheard::{InVain, Knowers, Unheard};
use crate::director::{Director, frame};
use crate::endpoint::{ConnectionId, EventKind};

/// From when on others may have declared a director down that they do not hear (us).
const LONG_US: u64 = 900_000;

/// How long (us) a session may take to be with a home, and how long whoever could be told nothing
/// may take to make up for it: a walk over all sessions.
const REGISTRATION_US: u64 = 500_000;
const CATCH_UP_US: u64 = 3_000_000;

/// What a client may take to try once more when its session is within reach again (us).
const TRY_AGAIN_US: u64 = 3_000_000;

/// How often it is looked at what only one director knows (us).
const LOOK_US: u64 = 100_000;

/// Why a loss is nobody's fault.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Cause {
    /// The last director that knew the session died before it could tell.
    Orphaned,
    /// Only a director knows it that is cut off or stopped, and could not tell.
    Stranded,
    /// No director announced the address: nobody heard the client, lately or for so long that its session
    /// expired.
    Unserved,
    /// The first datagrams of a flow were asked about, and not everybody who may know it could answer.
    Unanswered,
    /// Its packets came to directors that could ask nobody who knew it, until its session expired.
    InVain,
}

/// How an end loses its connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Loss {
    /// It was reset.
    Reset,
    /// Nobody answered.
    TimedOut,
    /// What had to come did not.
    Stalled,
}

impl Loss {
    /// What an end has noticed, if it is a loss and nothing worse.
    pub fn of(kind: &EventKind) -> Option<Loss> {
        match kind {
            EventKind::Reset { .. } | EventKind::Refused => Some(Loss::Reset),
            EventKind::TimedOut { .. } => Some(Loss::TimedOut),
            EventKind::Stalled => Some(Loss::Stalled),
            _ => None,
        }
    }
}

/// How often what was excused.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Excused(BTreeMap<(Cause, Loss), u64>);

impl Excused {
    fn count(&mut self, cause: Cause, loss: Loss) {
        *self.0.entry((cause, loss)).or_default() += 1;
    }

    /// How often a loss had this cause.
    pub fn times(&self, cause: Cause) -> u64 {
        self.0.iter().filter(|((of, _), _)| *of == cause).map(|(_, times)| times).sum()
    }

    /// Adds those of another run.
    pub fn add(&mut self, other: &Excused) {
        other.0.iter().for_each(|(what, times)| *self.0.entry(*what).or_default() += times);
    }

    /// All of them, in words.
    pub fn table(&self) -> String {
        let line = |((cause, loss), times): (&(Cause, Loss), &u64)| {
            format!("{:>22}  {times} (excused)", format!("{cause:?} {loss:?}"))
        };
        self.0.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

/// The excuses that hold now.
#[derive(Default)]
pub(super) struct Excuses {
    causes: BTreeMap<FlowId, Cause>,
    /// When nobody was there for a client last (us).
    unserved: BTreeMap<FlowId, u64>,
    /// For how long that has been all that became of its packets.
    unheard: Unheard,
    /// For how long they have come to somebody in vain.
    in_vain: InVain,
    /// When a first datagram was last dropped because somebody could not be asked (us).
    unanswered: BTreeMap<FlowId, u64>,
    /// Connections of which an end was lost and excused, and why: the other end follows.
    lost: BTreeMap<FlowId, Cause>,
    /// Of which client socket each connection is, and which one each socket has now.
    flows: BTreeMap<ConnectionId, FlowId>,
    current: BTreeMap<FlowId, ConnectionId>,
    /// Connections of which a client has noticed an excused loss: whenever the backend's half follows,
    /// and whatever its client does by then.
    gone: BTreeSet<ConnectionId>,
    /// Since when one director could tell another without interruption (us).
    tells_us: BTreeMap<(u32, u32), u64>,
    /// When it was last looked at what only this director knows (us).
    looked_us: BTreeMap<u32, u64>,
    /// What was excused.
    pub(super) counts: Excused,
}

impl Excuses {
    /// A loss of this connection is nobody's fault.
    pub(super) fn grant(&mut self, flow: FlowId, cause: Cause) {
        self.causes.insert(flow, cause);
    }

    /// It is nobody's fault, unless it has an excuse already: what was first is the reason. Whether it had none.
    pub(super) fn grant_first(&mut self, flow: FlowId, cause: Cause) -> bool {
        let first = !self.causes.contains_key(&flow);
        if first {
            self.grant(flow, cause);
        }
        first
    }

    /// Nobody was there to take a packet of this client.
    pub(super) fn unserved(&mut self, flow: FlowId, now_us: u64) {
        self.unserved.insert(flow, now_us);
        self.unheard.unserved(flow);
    }

    /// A packet of a connection is lost on its way to the router or to a director.
    pub(super) fn lost_elsewhere(&mut self, flow: FlowId) {
        self.unheard.lost_elsewhere(flow);
    }

    /// A director takes a packet of a connection that may be idle for so long. Whether its session may have
    /// expired rightly meanwhile.
    pub(super) fn taken(&mut self, flow: FlowId, now_us: u64, idle_us: u64) -> bool {
        self.unheard.taken(flow, now_us, idle_us)
    }

    /// A packet of a connection that may be idle for so long came to a director that does not know it.
    pub(super) fn in_vain(&mut self, flow: FlowId, now_us: u64, idle_us: u64, knowers: Knowers) {
        self.in_vain.dropped(flow, now_us, idle_us, knowers);
    }

    /// A packet of a connection was sent on to its backend.
    pub(super) fn sent_on(&mut self, flow: FlowId) {
        self.in_vain.sent_on(flow);
    }

    /// A first datagram of this flow was dropped as one that nobody knows for sure to be new. If all could
    /// be asked, no earlier silence is to blame.
    pub(super) fn unknown(&mut self, flow: FlowId, now_us: u64, all_could_answer: bool) {
        match all_could_answer {
            true => self.unanswered.remove(&flow),
            false => self.unanswered.insert(flow, now_us),
        };
    }

    /// A new connection begins.
    pub(super) fn begin(&mut self, flow: FlowId, connection: Option<ConnectionId>) {
        if let Some(id) = connection {
            self.flows.insert(id, flow);
            self.current.insert(flow, id);
        }
        self.causes.remove(&flow);
        self.unserved.remove(&flow);
        self.unheard.begin(flow);
        self.in_vain.begin(flow);
        self.unanswered.remove(&flow);
        self.lost.remove(&flow);
    }

    /// The client socket that opened a connection.
    pub(super) fn flow_of(&self, connection: ConnectionId) -> Option<FlowId> {
        self.flows.get(&connection).copied()
    }

    /// Whether a backend may lose this connection, if it is an earlier one of its client's socket: if the
    /// client has lost it.
    fn judge_earlier(&self, flow: FlowId, connection: Option<ConnectionId>) -> Option<bool> {
        let id = connection?;
        let current = self.current.get(&flow)?;
        (*current != id).then(|| self.gone.contains(&id))
    }

    /// Whether a connection has an excuse, used or not.
    pub(super) fn has(&self, flow: FlowId) -> bool {
        self.causes.contains_key(&flow) || self.lost.contains_key(&flow)
    }

    /// Whether a loss is excused, of a session that somebody knows or not. `idle_us` is how long a
    /// session may be idle.
    fn judge(&mut self, now_us: u64, flow: FlowId, loss: Loss, known: bool, idle_us: u64) -> bool {
        if self.lost.contains_key(&flow) {
            return true;
        }
        let since_us = self.unserved.get(&flow).map(|at| now_us - at);
        // Unheard, a session expires; once heard again, it goes on.
        let least_us = if loss == Loss::Reset { idle_us } else { 0 };
        let unserved = since_us.filter(|since| *since < least_us + 2 * TRY_AGAIN_US);
        let recent = |at: &&u64| now_us - **at < 2 * TRY_AGAIN_US && loss != Loss::Reset;
        let unanswered = self.unanswered.get(&flow).filter(recent);
        let cause = self.causes.get(&flow).copied();
        let cause = cause.or(unserved.map(|_| Cause::Unserved));
        let cause = cause.or(unanswered.map(|_| Cause::Unanswered));
        let cause = cause.filter(|_| loss != Loss::Reset || !known);
        // Its backend has been told that it is over: whoever comes to know it again brings nothing back.
        let in_vain = self.in_vain.expired(flow).then_some(Cause::InVain);
        let Some(cause) = cause.or(in_vain) else { return false };
        self.counts.count(cause, loss);
        self.lost.insert(flow, cause);
        true
    }
}

pub(super) fn client(record: &SessionRecord) -> Option<FlowId> {
    match record.key.source() {
        SocketAddr::V4(client) => Some(frame::socket_number(&client)),
        SocketAddr::V6(_) => None,
    }
}

/// Whether a record is of a connection that goes on.
pub(super) fn open(record: &SessionRecord) -> bool {
    record.idle_ms() < record.idle_limit_ms() && !record.flags.closing()
}

impl World {
    /// Notes who can tell whom, after something that may have changed it.
    pub(super) fn note_links(&mut self) {
        let now_us = self.queue.now_us();
        for a in 1..=self.plan.directors {
            for b in (1..=self.plan.directors).filter(|b| *b != a) {
                let runs = |id: u32| self.directors[id as usize - 1].runs();
                match runs(a) && runs(b) && self.peers.open(a, b) {
                    true => drop(self.excuses.tells_us.entry((a, b)).or_insert(now_us)),
                    false => drop(self.excuses.tells_us.remove(&(a, b))),
                }
            }
        }
    }

    /// Since when (us) a director could not do its part for its peers, if it cannot.
    fn apart_since(&self, director: &Director) -> Option<u64> {
        [director.frozen_since, director.cut_since].into_iter().flatten().min()
    }

    /// Whether a director could tell one of the homes of a session of its own, for long enough.
    fn could_tell(&self, id: u32, record: &SessionRecord) -> bool {
        let now_us = self.queue.now_us();
        let director = &self.directors[id as usize - 1];
        let Some(process) = director.process.as_deref() else { return false };
        let cluster = process.cluster();
        let bucket = holdfast_state_store::homes::bucket_of(cluster, &record.key);
        let local_ms = director.clock.local_us(now_us) / 1_000;
        let (homes, _) = process.young.homes().asked(local_ms, bucket);
        let age_us = u64::from(record.created_age_ms) * 1_000;
        let told = |home: u32| {
            let since_us = self.excuses.tells_us.get(&(id, home));
            let for_us = since_us.map_or(0, |since| now_us - since);
            age_us > REGISTRATION_US && for_us > age_us.min(CATCH_UP_US)
        };
        homes.iter().filter(|home| home.0 != id).take(2).any(|home| told(home.0))
    }

    /// Whether somebody else knows a session, who can be asked.
    fn known_by_others(&self, id: u32, record: &SessionRecord) -> bool {
        let now_us = self.queue.now_us();
        let apart = |d: &Director| self.apart_since(d).is_some_and(|at| now_us > at + LONG_US);
        let others = self.directors.iter().filter(|d| d.id != id && !d.dead && !apart(d));
        let mut processes = others.filter_map(|d| d.process.as_deref().map(|p| (d, p)));
        processes.any(|(director, process)| {
            let local_ms = director.clock.local_us(now_us) / 1_000;
            let same = process.table.find(&record.key).session();
            same.is_some_and(|same| same.incarnation == record.incarnation)
                || process.young.keeps(local_ms, process.cluster(), record)
        })
    }

    /// Looks for sessions that only this director knows, because it has been cut off from the majority
    /// or stopped for so long that others go on without it, and could tell none of their homes. (As
    /// long as the router sends them here they live; when it moves them, nobody there knows them.)
    pub(super) fn strand(&mut self, id: u32) {
        let now_us = self.queue.now_us();
        let director = &self.directors[id as usize - 1];
        let looked_us = self.excuses.looked_us.get(&id).copied().unwrap_or(0);
        let since_us = self.apart_since(director).unwrap_or(now_us);
        let frozen = director.frozen_since.is_some();
        if now_us < since_us + LONG_US || (now_us < looked_us + LOOK_US && !frozen) {
            return;
        }
        let Some(process) = director.process.as_deref() else { return };
        let mut records = Vec::new();
        process.table.for_each(director.clock.local_us(now_us) / 1_000, |record, _| {
            if open(record) {
                records.push(record.clone());
            }
        });
        self.excuses.looked_us.insert(id, now_us);
        self.note_half_open(id);
        for record in records {
            let Some(flow) = client(&record) else { continue };
            if !self.could_tell(id, &record) && !self.known_by_others(id, &record) {
                self.excuses.grant(flow, Cause::Stranded);
            }
        }
    }

    /// Takes back the excuses of sessions that somebody knows by now who has been within reach of the
    /// others for long enough that their clients have found them.
    pub(super) fn take_back(&mut self) {
        if self.excuses.causes.is_empty() {
            return;
        }
        let now_us = self.queue.now_us();
        let mut known = BTreeSet::new();
        for director in self.directors.iter().filter(|d| d.runs() && self.apart_since(d).is_none())
        {
            let others = self.directors.iter().filter(|d| d.id != director.id && d.runs());
            let long = |since: &u64| now_us > since + CATCH_UP_US + TRY_AGAIN_US;
            let within =
                |d: &Director| self.excuses.tells_us.get(&(director.id, d.id)).is_some_and(long);
            let mut others = others.peekable();
            let Some(process) = director.process.as_deref() else { continue };
            if others.peek().is_none() || !others.all(within) {
                continue;
            }
            process.table.for_each(director.clock.local_us(now_us) / 1_000, |record, _| {
                let of_it =
                    |flow: &FlowId| open(record) && self.oracle.may_be_agreed(*flow, record);
                known.extend(client(record).filter(of_it));
            });
        }
        self.excuses.causes.retain(|flow, _| !known.contains(flow));
    }

    /// Whether the loss of a connection has a stated excuse. That somebody did not know is none for a
    /// reset while another one knows.
    pub(super) fn excused(
        &mut self,
        place: Place,
        flow: FlowId,
        connection: Option<ConnectionId>,
        loss: Loss,
    ) -> bool {
        let of_client = matches!(place, Place::Client(_));
        if !of_client && let Some(gone) = self.excuses.judge_earlier(flow, connection) {
            self.marks.reach(Mark::EndFollowed, u64::from(gone));
            return gone;
        }
        let (now_us, known) = (self.queue.now_us(), self.is_known(flow));
        let idle_us =
            u64::from(self.plan.idle_timeout_ms.max(self.plan.udp_idle_timeout_ms)) * 1_000;
        let excused = self.excuses.judge(now_us, flow, loss, known, idle_us);
        self.excuses.gone.extend(connection.filter(|_| of_client && excused));
        excused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE_US: u64 = 4_000_000;

    fn judge(excuses: &mut Excuses, loss: Loss, known: bool) -> bool {
        excuses.judge(20_000_000, 7, loss, known, IDLE_US)
    }

    #[test]
    fn nothing_is_excused_without_a_reason() {
        for loss in [Loss::Reset, Loss::TimedOut, Loss::Stalled] {
            assert!(!judge(&mut Excuses::default(), loss, false));
        }
    }

    #[test]
    fn a_reset_is_excused_only_when_nobody_knows_the_session() {
        let mut excuses = Excuses::default();
        excuses.grant(7, Cause::Stranded);
        assert!(!judge(&mut excuses, Loss::Reset, true));
        assert!(judge(&mut excuses, Loss::Reset, false));
        // The other end follows; it is one loss.
        assert!(judge(&mut excuses, Loss::Reset, true));
        assert_eq!(excuses.counts.0, [((Cause::Stranded, Loss::Reset), 1)].into());
        excuses.begin(7, None);
        assert!(!judge(&mut excuses, Loss::Reset, false), "a new connection has none");
    }

    #[test]
    fn the_backends_half_of_an_earlier_connection_follows_only_its_own_client() {
        let mut excuses = Excuses::default();
        let (first, second) = (ConnectionId(1), ConnectionId(2));
        excuses.begin(7, Some(first));
        assert_eq!(excuses.judge_earlier(7, Some(first)), None, "it is judged as what it is");
        excuses.begin(7, Some(second));
        assert_eq!(
            excuses.judge_earlier(7, Some(first)),
            Some(false),
            "its client had lost nothing"
        );
        excuses.gone.insert(first);
        assert_eq!(excuses.judge_earlier(7, Some(first)), Some(true));
        assert_eq!(excuses.judge_earlier(7, Some(second)), None);
        assert_eq!(excuses.judge_earlier(7, None), None);
        assert_eq!((excuses.flow_of(first), excuses.flow_of(ConnectionId(3))), (Some(7), None));
    }

    #[test]
    fn nothing_but_a_loss_can_be_excused() {
        let fault = EventKind::Corrupt { offset: 0, belongs_to: None };
        assert_eq!(Loss::of(&fault), None);
        assert_eq!(Loss::of(&EventKind::BackendChanged { from: 1, to: 2 }), None);
        assert_eq!(Loss::of(&EventKind::Stalled), Some(Loss::Stalled));
    }

    #[test]
    fn a_new_flow_that_somebody_had_to_be_asked_about_in_vain_is_excused_for_a_while() {
        let mut excuses = Excuses::default();
        excuses.unknown(7, 13_000_000, false);
        assert!(!judge(&mut excuses, Loss::TimedOut, false), "it could have tried again");
        excuses.unknown(7, 19_000_000, false);
        assert!(!judge(&mut excuses, Loss::Reset, false), "nobody may reset it");
        excuses.unknown(7, 19_500_000, true);
        assert!(!judge(&mut excuses, Loss::TimedOut, false), "all could answer since");
        excuses.unknown(7, 19_600_000, false);
        assert!(judge(&mut excuses, Loss::TimedOut, false));
        assert_eq!(excuses.counts.times(Cause::Unanswered), 1);
    }

    #[test]
    fn what_had_expired_in_vain_is_lost_though_an_old_log_brings_it_back() {
        let mut excuses = Excuses::default();
        excuses.in_vain(7, 1_000_000, IDLE_US, Knowers::Beyond);
        assert!(
            !judge(&mut excuses, Loss::Reset, true) && !judge(&mut excuses, Loss::Reset, false)
        );
        excuses.in_vain(7, 9_000_000, IDLE_US, Knowers::Gone);
        assert!(judge(&mut excuses, Loss::Reset, true));
        assert_eq!(excuses.counts.0, [((Cause::InVain, Loss::Reset), 1)].into());
        excuses.begin(7, None);
        assert!(!judge(&mut excuses, Loss::TimedOut, false), "a new connection has none");
    }

    #[test]
    fn what_was_granted_first_remains_the_reason() {
        let mut excuses = Excuses::default();
        assert!(excuses.grant_first(7, Cause::Unserved) && excuses.has(7));
        excuses.grant(7, Cause::Orphaned);
        assert!(!excuses.grant_first(7, Cause::Unserved));
        assert!(judge(&mut excuses, Loss::TimedOut, false));
        assert_eq!(excuses.counts.0, [((Cause::Orphaned, Loss::TimedOut), 1)].into());
        excuses.begin(7, None);
        assert!(!judge(&mut excuses, Loss::TimedOut, false), "a new connection has none");
    }

    #[test]
    fn who_was_not_served_is_excused_for_a_while() {
        let mut excuses = Excuses::default();
        excuses.unserved(7, 13_000_000);
        assert!(!judge(&mut excuses, Loss::TimedOut, false), "it could have tried again");
        assert!(judge(&mut excuses, Loss::Reset, false), "it expired meanwhile");
        let mut excuses = Excuses::default();
        excuses.unserved(7, 19_000_000);
        assert!(judge(&mut excuses, Loss::TimedOut, true));
    }
}
