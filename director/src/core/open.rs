//! Opening sessions: which backend, which local address and port.

use holdfast_schema::flow::{FlowKey, Protocol};
use holdfast_schema::session::{ForwardingMode, SessionFlags};

use super::answer::IcmpError;
use super::counters::Count;
use super::frame::{Frame, Verdict};
use super::meta::{Meta, Segment};
use super::reason::DropReason;
use super::unknown::may_be_client;
use super::waiting::WaitFor;
use super::{Core, Moment};
use crate::session::{CLASS_PORTS, NewSession, OpenError, Side, Slot};
use crate::tables::{ListenerEntry, PORT_TRIES};

/// Backends that are tried.
const BACKEND_TRIES: usize = 3;

/// Classes that are searched to the end for one packet. (A run of taken ports is met once a round of
/// the cursor, so it is seldom that one is.)
const WHOLE_CLASSES: usize = 2;

/// What came of looking for a place.
enum Place {
    Opened(Slot),
    /// Another worker was quicker.
    Exists(Slot),
    /// A lock was taken, or newer tables are on their way: again later.
    Contended,
    Refused(DropReason),
}

impl Core {
    /// Opens a TCP session for a SYN, perhaps in place of a closing one, and forwards the SYN.
    pub(super) fn open_tcp(
        &mut self,
        at: &Moment<'_>,
        frame: &mut Frame<'_>,
        key: &FlowKey,
        meta: &Meta,
        segment: &Segment,
        replaces: Option<Slot>,
    ) -> Verdict {
        let Some(listener) = at.tables.listener(&key.dst, key.dst_port, Protocol::Tcp) else {
            return self.drop(DropReason::NoListener);
        };
        self.open(at, frame, key, meta, segment, listener, replaces)
    }

    /// The backend has accepted another connection of the client over the keys of this session: it goes on
    /// as that one's.
    #[cold]
    pub(super) fn begin_again(
        &mut self,
        at: &Moment<'_>,
        frame: &mut Frame<'_>,
        key: &FlowKey,
        meta: &Meta,
        segment: &Segment,
        slot: Slot,
    ) -> Verdict {
        let stamp = self.config.unix_ms_at_zero.wrapping_add(at.now_ms);
        let isn = segment.ack.wrapping_sub(1);
        match self.table.begin_again(slot, isn, stamp, at.now_ms) {
            Ok(slot) => {
                self.counters.add(Count::SessionsOpenedTcp, 1);
                self.counters.add(Count::SessionsReplaced, 1);
                self.replaced = self.replaced.wrapping_add(1);
                self.note_young(slot);
                self.cache.insert(key, slot, Side::Backend);
                self.known(at, frame, key, meta, (slot, Side::Backend))
            }
            Err(OpenError::Full) => self.drop(DropReason::SessionTableFull),
            Err(OpenError::HalfOpenFull | OpenError::ClassFull) => {
                self.drop(DropReason::HalfOpenFull)
            }
            Err(_) => {
                self.counters.add(Count::ContendedLookups, 1);
                self.park(at, frame, key, meta, WaitFor::Lock)
            }
        }
    }

    /// Opens a UDP session for a datagram and forwards the datagram.
    pub(super) fn open_udp(
        &mut self,
        at: &Moment<'_>,
        frame: &mut Frame<'_>,
        key: &FlowKey,
        meta: &Meta,
        listener: &ListenerEntry,
    ) -> Verdict {
        self.open(at, frame, key, meta, &Segment::default(), listener, None)
    }

    #[allow(clippy::too_many_arguments)] // all of it is what is known of one packet
    fn open(
        &mut self,
        at: &Moment<'_>,
        frame: &mut Frame<'_>,
        key: &FlowKey,
        meta: &Meta,
        segment: &Segment,
        listener: &ListenerEntry,
        replaces: Option<Slot>,
    ) -> Verdict {
        if listener.mode != ForwardingMode::FullNat {
            return self.drop(DropReason::UnsupportedMode);
        }
        if !may_be_client(at.tables, &key.src) {
            return self.drop(DropReason::BadSource);
        }
        // A session whose first packet goes nowhere would hold a slot and a port for its half-open time.
        if meta.ttl <= 1 {
            return self.tell(at, frame, key, IcmpError::TtlExceeded);
        }
        let slot = match self.place(at, key, segment, listener, replaces) {
            Place::Opened(slot) => {
                let count = match key.protocol {
                    Protocol::Tcp => Count::SessionsOpenedTcp,
                    Protocol::Udp => Count::SessionsOpenedUdp,
                };
                self.counters.add(count, 1);
                if replaces.is_some() {
                    self.counters.add(Count::SessionsReplaced, 1);
                    self.replaced = self.replaced.wrapping_add(1);
                }
                self.note_young(slot);
                let reply = self.table.session(slot).reply();
                self.cache.insert(key, slot, Side::Client);
                self.cache.insert(&reply, slot, Side::Backend);
                slot
            }
            Place::Exists(slot) => slot,
            Place::Contended => {
                self.counters.add(Count::ContendedLookups, 1);
                return self.park(at, frame, key, meta, WaitFor::Lock);
            }
            Place::Refused(reason) => return self.drop(reason),
        };
        self.known(at, frame, key, meta, (slot, Side::Client))
    }

    /// Finds a backend, a local address and a local port that are free together.
    fn place(
        &mut self,
        at: &Moment<'_>,
        key: &FlowKey,
        segment: &Segment,
        listener: &ListenerEntry,
        replaces: Option<Slot>,
    ) -> Place {
        let tables = at.tables;
        let lips = tables.own_lips();
        if lips.is_empty() {
            return Place::Refused(DropReason::NoLip);
        }
        let bucket = tables.bucket(key.protocol, &key.src, key.src_port);
        self.next_lip = self.next_lip.wrapping_add(1);
        let mut refusal = DropReason::NoRoute;
        let mut whole_classes = 0;
        for attempt in 0..BACKEND_TRIES {
            let chosen = tables.schedule_nth(listener, &key.src, key.src_port, attempt);
            let Some(backend) = chosen else {
                return Place::Refused(match attempt {
                    0 => DropReason::NoBackend,
                    _ => refusal,
                });
            };
            let hop =
                backend.addr.v4_octets().and_then(|dst| self.hops.get(at, &backend.addr, dst));
            if hop.is_none() {
                continue;
            }
            refusal = DropReason::NoFreePort;
            for turn in 0..lips.len() {
                let index = self.next_lip.wrapping_add(turn) % lips.len();
                let Some(lip) = lips.get(index) else { continue };
                let candidates = tables.ports().candidates(lip, backend.id, bucket);
                for (tried, local_port) in candidates.enumerate() {
                    let reply = FlowKey {
                        src: backend.addr,
                        dst: *lip,
                        src_port: backend.port,
                        dst_port: local_port,
                        protocol: key.protocol,
                    };
                    if tried == PORT_TRIES {
                        if self.table.class_used(&reply) >= CLASS_PORTS
                            || whole_classes == WHOLE_CLASSES
                        {
                            break;
                        }
                        whole_classes += 1;
                    }
                    let new = NewSession {
                        key: *key,
                        reply,
                        listener: listener.id,
                        backend: backend.id,
                        mode: listener.mode,
                        bucket,
                        idle_timeout_ms: listener.idle_timeout_ms,
                        replicate_after: listener.replicate_after,
                        stamp: self.config.unix_ms_at_zero.wrapping_add(at.now_ms),
                        isn: segment.seq,
                        flags: SessionFlags::CLIENT_OPENED,
                        seq_end: segment.seq.wrapping_add(segment.len),
                        ack: segment.ack,
                        isn_delta: 0,
                        timestamp_delta: 0,
                        replaces,
                    };
                    match self.table.open(new, at.now_ms) {
                        Ok(slot) => {
                            if attempt > 0 {
                                self.counters.add(Count::OpenedNextBackend, 1);
                            } else if turn > 0 {
                                self.counters.add(Count::OpenedNextLip, 1);
                            }
                            return Place::Opened(slot);
                        }
                        Err(OpenError::ReplyTaken) => {}
                        Err(OpenError::ClassFull) => break,
                        Err(OpenError::Exists(slot)) => return Place::Exists(slot),
                        Err(OpenError::Contended | OpenError::Removed) => {
                            return Place::Contended;
                        }
                        Err(OpenError::Full) => {
                            return Place::Refused(DropReason::SessionTableFull);
                        }
                        Err(OpenError::HalfOpenFull) => {
                            return Place::Refused(DropReason::HalfOpenFull);
                        }
                    }
                }
            }
        }
        Place::Refused(refusal)
    }
}
