//! The table against a reference model under random sequences of operations.

use std::collections::HashMap;

use holdfast_schema::session::{SessionFlags, SessionSink};
use proptest::prelude::*;

use super::super::key::PackedKey;
use super::super::{OpenError, Side};
use super::*;

/// Flows and local ports: few, so that they collide.
const SPACE: u32 = 6;

#[derive(Clone, Debug)]
enum Op {
    Open { n: u32, local: u32, open: bool, replace: bool },
    Flags { n: u32, flags: u16 },
    Remove { n: u32 },
    Created { n: u32, local: u32, stamp: u64, open: bool },
    Installed { n: u32, local: u32, stamp: u64, open: bool },
    Confirmed { n: u32 },
    Expired { n: u32 },
}

fn op() -> impl Strategy<Value = Op> {
    let (n, local, stamp) = (0..SPACE, 0..SPACE, 900u64..1_100);
    prop_oneof![
        (n.clone(), local.clone(), any::<bool>(), any::<bool>())
            .prop_map(|(n, local, open, replace)| Op::Open { n, local, open, replace }),
        (n.clone(), 0u16..128).prop_map(|(n, flags)| Op::Flags { n, flags }),
        n.clone().prop_map(|n| Op::Remove { n }),
        (n.clone(), local.clone(), stamp.clone(), any::<bool>())
            .prop_map(|(n, local, stamp, open)| Op::Created { n, local, stamp, open }),
        (n.clone(), local, stamp, any::<bool>())
            .prop_map(|(n, local, stamp, open)| Op::Installed { n, local, stamp, open }),
        n.clone().prop_map(|n| Op::Confirmed { n }),
        n.prop_map(|n| Op::Expired { n }),
    ]
}

#[derive(Clone, Debug)]
struct Entry {
    local: u32,
    incarnation: Incarnation,
    flags: SessionFlags,
    own: bool,
    acked: bool,
    expiring: bool,
}

impl Entry {
    fn open(&self) -> bool {
        self.flags.established() && !self.flags.closing()
    }
}

/// What the table should hold: sessions by flow, and ports at rest.
#[derive(Default)]
struct Model {
    sessions: HashMap<u32, Entry>,
    resting: Vec<Entry>,
}

fn flags(open: bool) -> SessionFlags {
    if open { established() } else { OPENED }
}

impl Model {
    fn holder(&self, local: u32) -> Option<u32> {
        self.sessions.iter().find(|(_, entry)| entry.local == local).map(|(n, _)| *n)
    }

    fn rests(&self, local: u32) -> bool {
        self.resting.iter().any(|entry| entry.local == local)
    }

    fn supersede(&mut self, n: u32) {
        if let Some(old) = self.sessions.remove(&n)
            && old.flags.closing()
            && old.flags.idle_limit_ms(900_000) == 60_000
        {
            self.resting.push(old);
        }
    }

    fn accept(&mut self, n: u32, said: &SessionRecord, local: u32, acked: bool) {
        if let Some(entry) = self.sessions.get_mut(&n)
            && entry.incarnation == said.incarnation
        {
            entry.flags = entry.flags.with(said.flags);
            entry.acked |= acked;
            entry.expiring &= !acked;
            return;
        }
        if let Some(entry) = self.sessions.get_mut(&n) {
            let twins = entry.incarnation.isn == said.incarnation.isn;
            let prevails = match (said.flags.established(), entry.open()) {
                (new, kept) if twins && new != kept => new,
                _ => said.incarnation > entry.incarnation,
            };
            if !prevails {
                // The store keeps the other one, so it has this one no more.
                entry.acked &= !acked;
                return;
            }
        }
        // The one under the key goes first, even if the reply key then refuses the new one.
        self.supersede(n);
        let resting = self.resting.iter().position(|entry| entry.local == local);
        let other = self.holder(local);
        let holder = other.map(|n| &self.sessions[&n]).or(resting.map(|at| &self.resting[at]));
        if let Some(holder) = holder {
            let better = match (said.flags.established(), holder.open()) {
                (true, false) => true,
                (false, true) => false,
                _ => said.incarnation > holder.incarnation,
            };
            if !better {
                return;
            }
            other.map(|n| self.sessions.remove(&n));
            resting.map(|at| self.resting.remove(at));
        }
        let (incarnation, flags) = (said.incarnation, said.flags);
        let entry = Entry { local, incarnation, flags, own: false, acked, expiring: false };
        self.sessions.insert(n, entry);
    }
}

fn run(ops: &[Op]) {
    let (table, handle) = table(64);
    let mut model = Model::default();
    for op in ops {
        handle.quiescent();
        table.reclaim(64);
        apply(&table, &mut model, op);
        check(&table, &model);
    }
}

fn apply(table: &SessionTable, model: &mut Model, op: &Op) {
    match *op {
        Op::Open { n, local, open, replace } => {
            let old = found(table, &key(n)).map(|(slot, _)| slot);
            let replaces = old.filter(|_| replace);
            let outcome =
                table.open(NewSession { replaces, ..new_session(n, local, flags(open)) }, 0);
            let expected = if model.holder(local).is_some() || model.rests(local) {
                Err(OpenError::ReplyTaken)
            } else if let (Some(old), None) = (old, replaces) {
                Err(OpenError::Exists(old))
            } else {
                Ok(())
            };
            assert_eq!(outcome.map(|_| ()), expected);
            if let Ok(slot) = outcome {
                let incarnation = table.session(slot).incarnation();
                if let Some(older) = model.sessions.get(&n) {
                    assert!(incarnation > older.incarnation);
                }
                model.supersede(n);
                let (flags, own) = (flags(open), true);
                let entry = Entry { local, incarnation, flags, own, acked: false, expiring: false };
                model.sessions.insert(n, entry);
            }
        }
        Op::Flags { n, flags } => {
            if let Some((slot, _)) = found(table, &key(n)) {
                table.session(slot).set_flags(SessionFlags(flags));
                let entry = model.sessions.get_mut(&n).unwrap();
                entry.flags = entry.flags.with(SessionFlags(flags));
            }
        }
        Op::Remove { n } => {
            if let Some((slot, _)) = found(table, &key(n)) {
                assert!(table.remove(slot, &key(n)));
                model.sessions.remove(&n);
            }
        }
        Op::Created { n, local, stamp, open } => {
            let said = record(n, local, stamp, flags(open));
            table.created(&said);
            model.accept(n, &said, local, true);
        }
        Op::Installed { n, local, stamp, open } => {
            let said = record(n, local, stamp, flags(open));
            let _ = table.install(&said, 0);
            model.accept(n, &said, local, false);
        }
        Op::Confirmed { n } => {
            if let Some((slot, _)) = found(table, &key(n)) {
                table.created(&table.session(slot).describe(0));
                let entry = model.sessions.get_mut(&n).unwrap();
                (entry.acked, entry.expiring) = (true, false);
            }
        }
        Op::Expired { n } => {
            if let Some(entry) = model.sessions.get_mut(&n) {
                table.expired(&key(n), &entry.incarnation);
                // Its own sessions were seen here at 0, which is now: vetoed.
                // Others that are open stay until their ends have been told.
                if entry.own || entry.open() {
                    (entry.acked, entry.expiring) = (false, !entry.own);
                } else {
                    model.sessions.remove(&n);
                }
            }
        }
    }
}

fn check(table: &SessionTable, model: &Model) {
    for n in 0..SPACE {
        match (found(table, &key(n)), model.sessions.get(&n)) {
            (None, None) => {}
            (Some((slot, Side::Client)), Some(entry)) => {
                let session = table.session(slot);
                assert_eq!(session.key(), key(n));
                assert_eq!(session.reply(), reply(entry.local));
                assert_eq!(session.incarnation(), entry.incarnation);
                assert_eq!(session.flags(), entry.flags);
                assert_eq!(session.replicated(), entry.acked);
                assert_eq!(found(table, &reply(entry.local)), Some((slot, Side::Backend)));
            }
            other => panic!("flow {n}: {other:?}"),
        }
    }
    let taken = |local| model.holder(local).is_some() || model.rests(local);
    let class = |local| table.classes.place(&PackedKey::new(&reply(local)));
    for local in 0..SPACE {
        assert_eq!(found(table, &reply(local)).is_some(), taken(local), "port {local}");
        // (Classes may share a count.)
        let used =
            (0..SPACE).filter(|other| taken(*other) && class(*other) == class(local)).count();
        assert_eq!(table.class_used(&reply(local)) as usize, used, "class of port {local}");
    }
    let all = model.sessions.values();
    let unreplicated =
        all.clone().filter(|e| !e.acked && !e.expiring && !e.flags.closing()).count();
    assert_eq!(table.unreplicated(), unreplicated as u64, "unreplicated");
    assert_eq!(table.sessions() as usize, model.sessions.len() + model.resting.len(), "sessions");
    let half_open = all.chain(&model.resting).filter(|e| e.own && !e.flags.established()).count();
    assert_eq!(table.stats().half_open as usize, half_open);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn the_table_does_what_the_model_does(ops in prop::collection::vec(op(), 1..80)) {
        run(&ops);
    }
}
