//! A home's side: what it was told of others' young sessions, and what it says when it is asked.

use std::collections::BTreeMap;

use holdfast_schema::bucket::{Bucket, BucketKey};
use holdfast_schema::cluster::{ClusterState, DirectorId};
use holdfast_schema::flow::FlowKey;
use holdfast_schema::session::{Incarnation, Known, SessionRecord};

use super::confirmed::{Confirmed, Heading};
use super::young::{Orphan, Registered, Young};
use crate::codec::wire::{Register, Registration};

/// What a home knows of a packet's key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kept {
    /// This young session.
    Session(Box<SessionRecord>),
    /// None; with authority if every live owner has told this home everything.
    Nobody {
        /// Whether the *no* counts.
        authority: bool,
    },
    /// It may have been told of one that found no room.
    Unsure,
}

/// Everything a home keeps. Times are milliseconds of any steady clock.
pub struct Keeper {
    me: DirectorId,
    young: Young,
    confirmed: Confirmed,
    epoch: u64,
    /// The members that are not down, and their lives.
    live: BTreeMap<DirectorId, u64>,
    bucket_key: BucketKey,
    received: u64,
    twins: u64,
    #[cfg(feature = "simulation")]
    without: super::Without,
}

/// What follows from a batch.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Consequences {
    /// What to answer, and whom.
    pub answers: Vec<(DirectorId, Registration)>,
    /// Sessions of others of which this director itself has a twin.
    pub adopt: Vec<SessionRecord>,
}

/// How a home is doing.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct KeeperStats {
    /// Records kept now.
    pub kept: u64,
    /// Most records that are kept.
    pub capacity: u64,
    /// Half-open ones among them.
    pub half_open: u64,
    /// Most half-open ones that are kept.
    pub half_open_capacity: u64,
    /// Established ones among them that were found to have lost their owners, and which their shards do not
    /// have yet.
    pub orphans: u64,
    /// Buckets of which it is unsure now, because registrations found no room or records gave way.
    pub unsure_buckets: u64,
    /// Registrations received.
    pub received: u64,
    /// Registrations that found no room.
    pub turned_away: u64,
    /// Records that gave way to others.
    pub evicted: u64,
    /// Records of owners that are gone which were handed to their shards, each once.
    pub handed_over: u64,
    /// Registrations of a connection that another director had registered before.
    pub twins: u64,
    /// Whether its *no* counts now.
    pub authority: bool,
}

impl Keeper {
    /// A home that has been told nothing, with room for so many records.
    pub fn new(me: DirectorId, capacity: usize) -> Keeper {
        Keeper {
            me,
            young: Young::new(capacity),
            confirmed: Confirmed::default(),
            epoch: 0,
            live: BTreeMap::new(),
            bucket_key: BucketKey([0; 16]),
            received: 0,
            twins: 0,
            #[cfg(feature = "simulation")]
            without: super::Without::default(),
        }
    }

    /// The members as last committed.
    pub fn membership(&mut self, cluster: &ClusterState) {
        self.bucket_key = cluster.bucket_key;
        self.epoch = cluster.membership_epoch;
        let live = cluster.members.values().filter(|m| !m.down);
        self.live = live.map(|m| (m.id, m.incarnation)).collect();
        self.confirmed.retain(|owner| cluster.members.contains_key(&owner));
        self.young.set_live(&self.live);
    }

    /// A batch of an owner. `own` is what this director's own table knows of each of its sessions, or
    /// nothing.
    pub fn register(
        &mut self,
        now_ms: u64,
        from: DirectorId,
        batch: Register,
        own: &[Option<SessionRecord>],
    ) -> Consequences {
        let heading = Heading {
            incarnation: batch.incarnation,
            epoch: batch.epoch,
            number: batch.number,
            told: batch.told,
        };
        let mut consequences = Consequences::default();
        let resync = self.confirmed.batch(now_ms, from, &heading);
        let mut twins = Vec::new();
        self.received += batch.records.len() as u64;
        let own = own.iter().map(Option::as_ref).chain(std::iter::repeat(None));
        for (record, own) in batch.records.into_iter().zip(own) {
            if let Some(own) = own.filter(|own| self.are_twins(own, &record)) {
                self.twins += 1;
                let stays = own_stays(own, &record);
                if !stays || tells_both(own, &record) {
                    consequences.adopt.push(record.clone());
                }
                if stays {
                    twins.push(own.clone());
                    continue;
                }
            }
            let bucket = record.bucket(&self.bucket_key);
            let said_by = (from, batch.incarnation);
            let told = |twin| Registration { twins: vec![twin], resync: None };
            match self.young.register(now_ms, bucket, said_by, record.clone()) {
                Registered::Twin { kept, by } if self.sees_twins() => {
                    self.twins += 1;
                    let both = tells_both(&kept, &record);
                    twins.push(*kept);
                    if both {
                        consequences.answers.push((by, told(record)));
                    }
                }
                Registered::Took(loser) if self.sees_twins() => {
                    consequences.answers.push((loser, told(record)));
                }
                _ => {}
            }
        }
        if resync.is_some() || !twins.is_empty() {
            consequences.answers.push((from, Registration { twins, resync }));
        }
        consequences
    }

    /// Whether two sessions that are both open were made by one opening of the client.
    fn are_twins(&self, known: &SessionRecord, record: &SessionRecord) -> bool {
        known.incarnation.isn == record.incarnation.isn
            && known.incarnation != record.incarnation
            && !known.flags.closing()
            && self.sees_twins()
    }

    /// What another director has registered of the same opening that made this own session. One that is
    /// established has nothing to learn of one that is not: it would be said again, and again looked for.
    pub fn twin_of(&mut self, now_ms: u64, own: &SessionRecord) -> Option<SessionRecord> {
        let bucket = own.bucket(&self.bucket_key);
        let known = self.young.find(now_ms, bucket, &own.key).session()?;
        let news = !own.flags.established() || known.flags.established();
        (news && known.key == own.key && self.are_twins(&known, own)).then_some(known)
    }

    fn sees_twins(&self) -> bool {
        #[cfg(feature = "simulation")]
        return !self.without.twins;
        #[cfg(not(feature = "simulation"))]
        true
    }

    /// Switches parts off, for the negative controls of the simulation.
    #[cfg(feature = "simulation")]
    pub fn set_without(&mut self, without: super::Without) {
        self.without = without;
    }

    /// Everything it keeps, and who said it in which life.
    #[cfg(feature = "simulation")]
    pub fn records(&mut self, now_ms: u64) -> Vec<(SessionRecord, (DirectorId, u64))> {
        self.young.records(now_ms)
    }

    /// What this home knows of the session that a packet of this bucket with this key belongs to.
    pub fn find(&mut self, now_ms: u64, bucket: Bucket, key: &FlowKey) -> Kept {
        match self.young.find(now_ms, bucket, key) {
            Known::Session(record) => Kept::Session(record),
            Known::Unsure => Kept::Unsure,
            Known::Nobody => Kept::Nobody { authority: self.has_authority(now_ms) },
        }
    }

    /// Sessions of directors that are gone, which this home has to hand to their shards: at most so many.
    /// This goes on with the search for them, too ([`Young::orphans`]).
    pub fn orphans(&mut self, now_ms: u64, most: usize) -> Vec<Orphan> {
        self.young.orphans(now_ms, most)
    }

    /// This director's replica has this session now, and answers for it.
    pub fn replicated(&mut self, record: &SessionRecord) {
        self.young.replicated(record);
    }

    /// This session has found its place or its end elsewhere.
    pub fn applied(&mut self, key: &FlowKey, incarnation: &Incarnation) {
        self.young.applied(key, incarnation);
    }

    /// Forgets what is out of date, and says how it is.
    pub fn stats(&mut self, now_ms: u64) -> KeeperStats {
        self.young.expire(now_ms);
        KeeperStats {
            kept: self.young.len() as u64,
            capacity: self.young.capacity() as u64,
            half_open: self.young.half_open() as u64,
            half_open_capacity: self.young.half_open_capacity() as u64,
            orphans: self.young.waiting_orphans() as u64,
            unsure_buckets: self.young.unsure_buckets(now_ms) as u64,
            received: self.received,
            turned_away: self.young.turned_away(),
            evicted: self.young.evicted(),
            handed_over: self.young.handed_over(),
            twins: self.twins,
            authority: self.has_authority(now_ms),
        }
    }

    fn has_authority(&self, now_ms: u64) -> bool {
        #[cfg(feature = "simulation")]
        if self.without.authority {
            return true;
        }
        let me = self.me;
        let others = self.live.iter().filter(|(id, _)| **id != me);
        // Who is asked now may be others than those whom the dead have told: one that has to hand over
        // sessions, or has still to look for them, does not join a denial of others.
        self.live.contains_key(&me)
            && !self.young.has_orphans()
            && self.confirmed.has_authority(now_ms, self.epoch, others.map(|(id, i)| (*id, *i)))
    }
}

/// Which of two twins stays, as this director has one of them.
fn own_stays(own: &SessionRecord, record: &SessionRecord) -> bool {
    match record.incarnation.is_twin_of(&own.incarnation) {
        true => !record.prevails_over(own),
        false => own.flags.established() || !record.flags.established(),
    }
}

/// Whether not only the one who has to give way is told: while no client has agreed with either, its next
/// segment may come to the other one.
fn tells_both(stays: &SessionRecord, goes: &SessionRecord) -> bool {
    stays.incarnation.is_twin_of(&goes.incarnation) && !stays.flags.established()
}

#[cfg(test)]
mod tests {
    use holdfast_schema::session::SessionFlags;

    use super::*;
    use crate::control::tests::Cluster;
    use crate::homes::young::tests::record;

    fn batch(epoch: u64, number: u64, told: Option<u64>, records: Vec<SessionRecord>) -> Register {
        Register { epoch, incarnation: 1, number, told, records }
    }

    #[test]
    fn it_answers_for_what_it_was_told_and_denies_only_with_authority() {
        let cluster = Cluster::of(3).record.cluster;
        let epoch = cluster.membership_epoch;
        let mut home = Keeper::new(DirectorId(1), 100);
        home.membership(&cluster);
        let said = record(1, 2, 1, 7);
        let absent = record(2, 2, 1, 7).key;
        let bucket = said.bucket(&cluster.bucket_key);
        let (b, c) = (DirectorId(2), DirectorId(3));
        assert_eq!(
            home.register(0, b, batch(epoch, 0, Some(0), vec![said.clone()]), &[]),
            Consequences::default()
        );
        let Kept::Session(found) = home.find(5, bucket, &said.reply) else { panic!("not kept") };
        assert_eq!(found.incarnation, said.incarnation);
        assert_eq!(
            home.find(20, bucket, &absent),
            Kept::Nobody { authority: false },
            "C is silent"
        );
        home.register(20, c, batch(epoch, 0, Some(0), vec![]), &[]);
        assert_eq!(home.find(40, bucket, &absent), Kept::Nobody { authority: true });
        // Membership moves on: everybody has to say everything again for the new epoch.
        let mut later = cluster.clone();
        later.membership_epoch += 1;
        home.membership(&later);
        assert_eq!(home.find(50, bucket, &absent), Kept::Nobody { authority: false });
        for owner in [b, c] {
            home.register(60, owner, batch(epoch + 1, 1, Some(1), vec![]), &[]);
        }
        assert_eq!(home.find(70, bucket, &absent), Kept::Nobody { authority: true });
        // A second director that saw the same opening is told of the first, and the first of the
        // second; and a gap is noticed.
        let second = || record(1, 3, 2, 7);
        let told = home.register(80, c, batch(epoch + 1, 3, Some(1), vec![second()]), &[None]);
        let [(first, of_second), (to, again)] = &told.answers[..] else { panic!("{told:?}") };
        assert_eq!((*first, *to, again.resync), (b, c, Some(3)));
        assert_eq!(of_second.twins, [second()]);
        assert_eq!(again.twins.len(), 1);
        assert_eq!(again.twins[0].incarnation, said.incarnation);
        // So it is if this very director is the first.
        let mine = record(1, 1, 1, 7);
        let second_again = batch(epoch + 1, 3, Some(1), vec![second()]);
        let told = home.register(81, c, second_again, &[Some(mine.clone())]);
        let [(to, of_mine)] = &told.answers[..] else { panic!("{told:?}") };
        assert_eq!((*to, of_mine.twins.as_slice()), (c, std::slice::from_ref(&mine)));
        assert_eq!(told.adopt, [second()]);
        assert_eq!(home.twin_of(82, &mine).map(|t| t.incarnation), Some(said.incarnation));
        assert_eq!(home.twin_of(82, &said), None, "itself");
        let mut mine_agreed = mine.clone();
        mine_agreed.flags = mine_agreed.flags.with(SessionFlags::ESTABLISHED);
        assert_eq!(home.twin_of(82, &mine_agreed), None, "decided");
        // Two that tell each other at the same time: this one, as the later, gives way and says nothing.
        let late = record(1, 1, 9, 7);
        let earlier = batch(epoch + 1, 1, Some(1), vec![said.clone()]);
        let told = home.register(82, b, earlier, &[Some(late)]);
        assert_eq!(told.adopt, std::slice::from_ref(&said));
        assert!(told.answers.iter().all(|(_, answer)| answer.twins.is_empty()));
        // Unless the client has agreed on the later one: then everybody else gives way.
        let mut agreed = record(1, 3, 2, 7);
        agreed.flags = agreed.flags.with(SessionFlags::ESTABLISHED);
        let batch = batch(epoch + 1, 4, Some(4), vec![agreed.clone()]);
        let told = home.register(83, c, batch, &[Some(mine)]);
        assert_eq!(told.adopt, std::slice::from_ref(&agreed));
        assert_eq!(told.answers.len(), 1);
        assert_eq!(told.answers[0].0, b, "it had registered the first");
        assert_eq!(told.answers[0].1.twins, std::slice::from_ref(&agreed));
        let stats = home.stats(84);
        assert_eq!((stats.kept, stats.received, stats.twins), (1, 5, 4));
        home.applied(&agreed.key, &agreed.incarnation);
        assert_eq!(home.stats(84).kept, 0, "its replica answers now");
    }

    #[test]
    fn it_denies_nothing_before_it_has_looked_for_sessions_of_the_dead() {
        let mut cluster = Cluster::of(3).record.cluster;
        let mut home = Keeper::new(DirectorId(1), 100);
        home.membership(&cluster);
        let (b, c) = (DirectorId(2), DirectorId(3));
        home.register(
            0,
            b,
            batch(cluster.membership_epoch, 0, Some(0), vec![record(1, 2, 1, 7)]),
            &[],
        );
        let absent = record(2, 2, 1, 7);
        let bucket = absent.bucket(&cluster.bucket_key);
        cluster.membership_epoch += 1;
        cluster.members.get_mut(&b).unwrap().down = true;
        home.membership(&cluster);
        home.register(10, c, batch(cluster.membership_epoch, 0, Some(0), vec![]), &[]);
        // All the living have told it everything; but has it something of the dead?
        assert_eq!(home.find(50, bucket, &absent.key), Kept::Nobody { authority: false });
        let stats = home.stats(50);
        assert_eq!((stats.orphans, stats.authority), (0, false));
        assert!(home.orphans(50, 16).is_empty(), "only a half-open one");
        assert_eq!(home.find(50, bucket, &absent.key), Kept::Nobody { authority: true });
        assert!(home.stats(50).authority);
    }
}
