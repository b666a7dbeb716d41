//! The book of all connections of one client process.

use std::cell::RefCell;
use std::net::{SocketAddr, SocketAddrV4};
use std::rc::Rc;

use tokio::sync::Notify;

use super::messages::{Flow, Look};
use super::record::{Cohort, Patience, Record, Transport};
use crate::clock::now_ms;

/// All records of this process, shared by its tasks (one thread).
#[derive(Clone, Default)]
pub struct Book {
    entries: Rc<RefCell<Vec<Entry>>>,
    /// Added to the numbers, so that those of several processes differ.
    base: u64,
}

struct Entry {
    record: Record,
    speak: Rc<Notify>,
}

/// One connection's page in the book.
#[derive(Clone)]
pub struct Page {
    book: Book,
    index: usize,
    speak: Rc<Notify>,
}

impl Book {
    /// An empty book; the numbers of its records begin at `base`.
    pub fn new(base: u64) -> Book {
        Book { entries: Rc::default(), base }
    }

    /// Opens a page.
    pub fn open(&self, cohort: Cohort, transport: Transport, remote: SocketAddrV4) -> Page {
        let mut entries = self.entries.borrow_mut();
        let (index, speak) = (entries.len(), Rc::new(Notify::new()));
        let record = Record::new(self.base + index as u64, cohort, transport, remote, now_ms());
        entries.push(Entry { record, speak: speak.clone() });
        Page { book: self.clone(), index, speak }
    }

    /// A copy of everything.
    pub fn records(&self) -> Vec<Record> {
        self.entries.borrow().iter().map(|e| e.record.clone()).collect()
    }

    /// The connections that are open or on their way, or have ended since then.
    pub fn flows(&self, since_ms: u64) -> Vec<Flow> {
        let entries = self.entries.borrow();
        let records = entries.iter().map(|e| &e.record);
        let there = records.filter(|r| r.ended_ms().is_none_or(|at| at >= since_ms));
        there
            .filter_map(|r| {
                let (id, transport, remote) = (r.id, r.transport, r.remote);
                r.local.map(|local| Flow { id, transport, local, remote })
            })
            .collect()
    }

    /// How things are.
    pub fn look(&self, since_ms: u64, connected_before_ms: u64, patience_ms: u64) -> Look {
        let now = now_ms();
        let patience = Patience::of(patience_ms);
        let mut look = Look::default();
        let mut pending = std::collections::BTreeMap::new();
        for Entry { record, .. } in self.entries.borrow().iter() {
            let lost = record.lost_with(&patience, now).is_some();
            if lost && record.cohort == Cohort::Young {
                look.young_lost += 1;
            } else if lost {
                look.lost += 1;
            }
            if record.ended.is_some() {
                continue;
            }
            look.passing += u64::from(!lost && record.cohort.passes());
            let Some(connected) = record.connected_ms else { continue };
            look.open += u64::from(record.cohort != Cohort::Young);
            if lost {
                continue;
            }
            look.overdue_ms = look.overdue_ms.max(now.saturating_sub(record.due_ms));
            if connected <= connected_before_ms && record.last_ms.is_none_or(|l| l < since_ms) {
                *pending.entry(record.cohort).or_insert(0) += 1;
            }
        }
        look.pending = pending.into_iter().collect();
        look
    }

    /// The idle connections that have exchanged nothing since then.
    pub fn silent_since(&self, since_ms: u64) -> Vec<Rc<Notify>> {
        let entries = self.entries.borrow();
        let silent = entries.iter().filter(|e| {
            e.record.cohort == Cohort::Idle
                && e.record.ended.is_none()
                && e.record.connected_ms.is_some()
                && e.record.last_ms.is_none_or(|l| l < since_ms)
        });
        silent.map(|e| e.speak.clone()).collect()
    }
}

impl Page {
    /// Changes the record.
    pub fn note<T>(&self, change: impl FnOnce(&mut Record) -> T) -> T {
        change(&mut self.book.entries.borrow_mut()[self.index].record)
    }

    /// The socket's own address, once it has one.
    pub fn local(&self, address: std::io::Result<SocketAddr>) {
        if let Ok(SocketAddr::V4(local)) = address {
            self.note(|r| r.local = Some(local));
        }
    }

    /// Notes that it broke, in our own judgement.
    pub fn failed(&self, error: impl std::fmt::Display) {
        self.note(|r| r.failed(now_ms(), error.to_string(), None));
    }

    /// Notes that it broke, and what the system says of it.
    pub fn broke(&self, doing: &str, error: &std::io::Error) {
        self.note(|r| r.failed(now_ms(), format!("{doing}: {error}"), error.raw_os_error()));
    }

    /// Waits for `pause_ms`, or until the connection is told to speak.
    pub async fn pause(&self, pause_ms: u64) {
        let pause = std::time::Duration::from_millis(pause_ms);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = self.speak.notified() => {}
        }
        self.note(|r| r.speaks(now_ms()));
    }
}
