//! Marks: proof that a rare path was reached, and how often.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::director::process::Process;

/// The paths that seeds have to reach between them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Mark {
    /// A packet met a director that did not know its session, and another one told.
    MissFound,
    /// A director said with authority that a session does not exist.
    MissDenied,
    /// A director had to say that it does not know.
    AuthorityWithheld,
    /// One SYN was seen by two directors, and one of the two sessions gave way.
    Twin,
    /// An expiry of the store met a session that was alive here.
    Veto,
    /// A delete of an old use of a key met a newer one.
    LateDelete,
    /// A session was adopted from another director.
    Adopted,
    /// A newer session took the key of an older one.
    Superseded,
    /// A bucket got other homes while it had young sessions.
    HomeChange,
    /// A snapshot was installed over a live session that it did not know.
    SnapshotOverLive,
    /// A snapshot was installed.
    Snapshot,
    /// A director was stalled, and threw away what waited in its rings.
    Stalled,
    /// A planned change ended.
    PlannedChange,
    /// A drain came to its end.
    Drained,
    /// A director came back with a new replica number.
    NewReplica,
    /// A client's key was used again while an older session of it lingered.
    KeyReused,
    /// A packet met a record of its addresses, and others were asked whether it is of that.
    Doubted,
    /// A packet of a session was forwarded by a director that did not create it.
    Takeover,
    /// A session expired in the store that was open here.
    Expired,
    /// A director died with an open session whose client had used the same port before.
    DeathAfterReuse,
    /// A director died that alone had a record of a connection that was over.
    RecordOutlived,
    /// A home died that alone knew a session, because its director was gone.
    LastHomeDied,
    /// A backend noticed the end of a connection that its client had given up and followed by another one.
    EndFollowed,
    /// Nobody knew a session, in calm times, but one who may have was down: that denies nothing.
    DownNotDenied,
    /// A director started while a planned change of its own was under way.
    StartInPlannedChange,
    /// A director ended because its disk was full.
    DiskFull,
    /// A director was to start again, and its disk was full.
    StartHindered,
    /// A director ended because its disk had failed, and forgot its sessions.
    WriteFailed,
    /// A shard that had lost the majority of its voters for good was formed anew.
    FormedAnew,
    /// All that a client had sent for the whole idle limit was lost at the router, and its session expired.
    ExpiredUnheard,
    /// A director gave a group to another one because its disk did not answer.
    HandedOver,
    /// Two directors did not hear each other for long, and were not declared down: others heard both.
    HeardByOthers,
    /// A heartbeat, a request or an answer between directors overtook an earlier one.
    Overtaken,
    /// Messages between directors waited for a stream that stood still, and arrived.
    StreamWaited,
    /// A client's segment met an open record of an earlier use of its port, and was asked about.
    EarlierUse,
    /// The same, and that record was of one that is over.
    EarlierUseOver,
    /// The same, and that one had been heard milliseconds before.
    JustOver,
    /// The same, and one end of that one had been seen to close milliseconds before.
    JustHalfOver,
    /// A client's segment met a record of an earlier use of its port which the director itself had made, in an
    /// earlier life.
    OwnEarlierLife,
    /// A client's segment was dropped, and not sent by the record of an earlier use of its port.
    Refuted,
    /// A client's segment met a session of the same opening that is another connection than the client has taken.
    OtherTwin,
    /// A client and its backend had agreed long before a director met them that knew of no answer to the SYN.
    FurtherOn,
    /// A SYN went by the record of an earlier use of its port to a backend.
    SynByEarlierUse,
    /// A SYN-ACK of a port's next use met an open record of the one before.
    BegunOverOpen,
    /// A SYN-ACK of a port's next use met the record of one that is over.
    BegunOverClosed,
    /// An owner took the last news of a session along when it died, and its next packet came after the idle
    /// timeout that the others could count.
    LastNewsDied,
    /// A director that had not heard the quorum had kept a half-open session beyond its limit, and others have it
    /// established.
    HalfOpenKept,
    /// A home knew a twin of what was opened there, which had expired.
    ExpiredTwin,
    /// A director that had started again opened a session before the cluster knew of that start.
    OpenedUnannounced,
    /// An end of an expired connection had shown that it is at rest, and the connection went on.
    WentOnAfterRest,
    /// A client was refused because everybody denied its session, and its connection went on.
    WentOnAfterDenial,
    /// A director began to attract clients without the record of a connection that was over, which another had.
    LackedNothing,
    /// A reset for a backend went out in the place of a packet of it that had waited.
    BackendResetInPlace,
    /// A young session died with its director, and what that had to tell its homes waited for a stream that stood
    /// still.
    HomesDeaf,
}

impl Mark {
    /// All of them.
    pub const ALL: [Mark; 54] = [
        Mark::MissFound,
        Mark::MissDenied,
        Mark::AuthorityWithheld,
        Mark::Twin,
        Mark::Veto,
        Mark::LateDelete,
        Mark::Adopted,
        Mark::Superseded,
        Mark::HomeChange,
        Mark::SnapshotOverLive,
        Mark::Snapshot,
        Mark::Stalled,
        Mark::PlannedChange,
        Mark::Drained,
        Mark::NewReplica,
        Mark::KeyReused,
        Mark::Doubted,
        Mark::Takeover,
        Mark::Expired,
        Mark::DeathAfterReuse,
        Mark::RecordOutlived,
        Mark::LastHomeDied,
        Mark::EndFollowed,
        Mark::DownNotDenied,
        Mark::StartInPlannedChange,
        Mark::DiskFull,
        Mark::StartHindered,
        Mark::WriteFailed,
        Mark::FormedAnew,
        Mark::ExpiredUnheard,
        Mark::HandedOver,
        Mark::HeardByOthers,
        Mark::Overtaken,
        Mark::StreamWaited,
        Mark::EarlierUse,
        Mark::EarlierUseOver,
        Mark::OwnEarlierLife,
        Mark::Refuted,
        Mark::JustOver,
        Mark::JustHalfOver,
        Mark::OtherTwin,
        Mark::FurtherOn,
        Mark::SynByEarlierUse,
        Mark::BegunOverOpen,
        Mark::BegunOverClosed,
        Mark::LastNewsDied,
        Mark::HalfOpenKept,
        Mark::ExpiredTwin,
        Mark::OpenedUnannounced,
        Mark::WentOnAfterRest,
        Mark::WentOnAfterDenial,
        Mark::LackedNothing,
        Mark::BackendResetInPlace,
        Mark::HomesDeaf,
    ];

    /// Those that a few hundred seeds may well miss: regression tests reach them.
    pub const RARE: &[Mark] = &[
        Mark::LastHomeDied,
        Mark::EndFollowed,
        Mark::StartHindered,
        Mark::JustOver,
        Mark::JustHalfOver,
        Mark::OtherTwin,
        Mark::FurtherOn,
        Mark::HalfOpenKept,
        Mark::ExpiredTwin,
        Mark::OpenedUnannounced,
        Mark::WentOnAfterRest,
    ];

    /// Those that hardly one of ten thousand seeds reaches: regression tests have to.
    pub const OF_TESTS: &[Mark] =
        &[Mark::LackedNothing, Mark::BackendResetInPlace, Mark::HomesDeaf, Mark::WentOnAfterDenial];

    /// Those that so many seeds have to reach between them.
    pub fn due(seeds: u64) -> impl Iterator<Item = Mark> {
        let rare = |mark: &Mark| Mark::RARE.contains(mark);
        let ever = Mark::ALL.into_iter().filter(|mark| !Mark::OF_TESTS.contains(mark));
        ever.filter(move |mark| seeds >= RARE_SEEDS || !rare(mark))
    }

    /// The mark of this name.
    pub fn named(name: &str) -> Option<Mark> {
        Mark::ALL.into_iter().find(|mark| format!("{mark:?}") == name)
    }
}

/// So many seeds reach the rare ones, too.
const RARE_SEEDS: u64 = 10_000;

/// How often each mark was reached.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Marks(BTreeMap<Mark, u64>);

impl Marks {
    /// Reaches a mark `times` times.
    pub fn reach(&mut self, mark: Mark, times: u64) {
        if times > 0 {
            *self.0.entry(mark).or_default() += times;
        }
    }

    /// How often it was reached.
    pub fn count(&self, mark: Mark) -> u64 {
        self.0.get(&mark).copied().unwrap_or(0)
    }

    /// Takes what a process has counted: at the end, or when it dies.
    pub(super) fn collect(&mut self, process: &Process) {
        let stats = process.table.stats();
        self.reach(Mark::Adopted, stats.adopted);
        self.reach(Mark::Veto, stats.vetoed);
        self.reach(Mark::Superseded, stats.superseded);
        self.reach(Mark::Twin, stats.twins_adopted + stats.twins_kept);
        let told = |count: &AtomicU64| count.load(Ordering::Relaxed);
        self.reach(Mark::Expired, told(&process.told.expired));
        self.reach(Mark::LateDelete, told(&process.told.late));
        self.reach(Mark::SnapshotOverLive, told(&process.told.over_live));
        self.reach(Mark::Snapshot, told(&process.told.snapshots));
        self.reach(Mark::NewReplica, process.share.new_numbers);
        self.reach(Mark::ExpiredTwin, process.young.expired_twins);
        self.reach(Mark::HandedOver, process.share.handed_over());
    }

    /// Adds those of another run.
    pub fn add(&mut self, other: &Marks) {
        other.0.iter().for_each(|(mark, times)| self.reach(*mark, *times));
    }
}

impl Marks {
    /// All marks and how often they were reached, in words.
    pub fn table(&self) -> String {
        let line = |mark: &Mark| format!("{:>22}  {}", format!("{mark:?}"), self.count(*mark));
        Mark::ALL.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// Those that were reached, and how often, in one line.
    pub fn reached(&self) -> String {
        let one = |(mark, times): (&Mark, &u64)| format!("{mark:?} {times}");
        format!("reached: {}", self.0.iter().map(one).collect::<Vec<_>>().join(", "))
    }

    /// The marks that nobody reached, and so many seeds should have.
    pub fn missed(&self, seeds: u64) -> Vec<Mark> {
        Mark::due(seeds).filter(|mark| self.count(*mark) == 0).collect()
    }

    /// Whether all marks that so many seeds have to reach were reached, in words.
    pub fn verdict(&self, seeds: u64) -> String {
        let (missed, due) = (self.missed(seeds), Mark::due(seeds).count());
        let rare = match seeds < RARE_SEEDS {
            true => format!("; {:?} are due from {RARE_SEEDS} seeds on", Mark::RARE),
            false => String::new(),
        };
        match missed.is_empty() {
            true => format!("all marks reached ({due} of {} are due{rare})", Mark::ALL.len()),
            false => format!("marks never reached: {missed:?} ({due} are due{rare})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rare_marks_are_due_when_there_are_many_seeds() {
        let mut marks = Marks::default();
        Mark::due(1).for_each(|mark| marks.reach(mark, 1));
        assert!(marks.missed(RARE_SEEDS - 1).is_empty());
        assert!(marks.verdict(RARE_SEEDS - 1).starts_with("all marks reached"));
        assert_eq!(marks.missed(RARE_SEEDS), Mark::RARE);
        assert!(marks.verdict(RARE_SEEDS).starts_with("marks never reached: ["));
        Mark::RARE.iter().for_each(|mark| marks.reach(*mark, 1));
        assert!(marks.verdict(RARE_SEEDS).starts_with("all marks reached"));
        let others = Mark::RARE.len() + Mark::OF_TESTS.len();
        assert_eq!(Marks::default().missed(1).len(), Mark::ALL.len() - others);
    }

    #[test]
    fn a_mark_is_found_by_its_name() {
        for mark in Mark::ALL {
            assert_eq!(Mark::named(&format!("{mark:?}")), Some(mark));
        }
        assert_eq!(Mark::named("Nothing"), None);
    }
}
