//! What a table holds beside its sessions: for a simulation that judges whether anything remains when all
//! of them have ended. Counts everything anew, and trusts no counter.
#![forbid(unsafe_code)]

use super::table::SessionTable;

/// What is left, by where it is.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Leftovers {
    /// Keys that L2 leads somewhere, of either direction: a local port is free when its reply key is not here.
    pub keys: u64,
    /// Local ports that count as used in their classes.
    pub ports: u64,
    /// Half-open sessions that count in their classes.
    pub half_open: u64,
    /// Slots of the slab that are neither in use nor free, nor wait to be.
    pub lost_slots: u64,
    /// Records of the store that found no place and are kept aside.
    pub refused: u64,
    /// Twins that are kept aside until a client's segment decides. (One that is out of date is overwritten
    /// when there is no room for another: it leads nowhere.)
    pub twins: u64,
    /// Half-open connections of backends that wait to be reset, and sessions to be said again.
    pub queued: u64,
}

impl Leftovers {
    /// What there is, each with its name.
    pub fn named(&self) -> [(u64, &'static str); 7] {
        [
            (self.keys, "keys in the index"),
            (self.ports, "local ports in use"),
            (self.half_open, "half-open sessions in the quotas of port classes"),
            (self.lost_slots, "slots that nobody can use"),
            (self.refused, "records kept aside"),
            (self.twins, "twins kept aside"),
            (self.queued, "resets or repetitions queued"),
        ]
    }
}

impl SessionTable {
    /// What is here beside the sessions. For a table at rest: nobody may change it meanwhile.
    pub fn leftovers(&self) -> Leftovers {
        let (ports, half_open) = self.classes.totals();
        let (twins, queued) = self.twins.waiting(self.now());
        let unused = self.slab.unused() + u64::from(self.sessions());
        Leftovers {
            keys: self.l2.len() as u64,
            ports,
            half_open,
            lost_slots: u64::from(self.slab.high_water()).saturating_sub(unused),
            refused: self.refused.len() as u64,
            twins,
            queued,
        }
    }
}
