//! The network between directors: connections that keep order, stall while a link is cut, and break
//! when that takes too long.
//!
//! What it may do in bad weather is what QUIC leaves to it. Two directors share streams that bring many
//! messages ([`Stream`]): none of those is lost, doubled or overtaken while a connection lives, but one whose
//! packet was lost is late, and all that follow it. A heartbeat is a stream of its own, and so are a request and
//! its answer: they overtake each other, and a heartbeat for which a connection has no room is not sent. Nothing
//! arrives twice.

use std::collections::{BTreeMap, BTreeSet};

use crate::director::message::Message;
use crate::plan::Stream;
use crate::rng::Rng;

/// A connection that gets nothing through for this long (us) is broken, and what waited on it lost.
const PATIENCE_US: u64 = 2_000_000;

/// Messages that wait on a link that is cut.
const WAITING: usize = 512;

/// Messages that wait for a stream that stands still, before the oldest are lost (queue.rs of the transport).
const QUEUED: usize = 4_096;

const MILLION: u64 = 1_000_000;

/// A message on its way: when it arrives, from whom, at whom.
pub type Arriving = (u64, u32, u32, Message);

/// A link in one direction.
#[derive(Default)]
struct Link {
    /// When the last message arrives: the next one does not overtake it.
    last_us: u64,
    /// Since when it is stalled, and what waits.
    stalled: Option<(u64, Vec<Message>)>,
}

/// Bad weather between directors.
#[derive(Clone, Copy, Debug)]
pub struct Weather {
    /// Whose links; none: all.
    pub of: Option<u32>,
    /// Heartbeats that are not sent, of a million.
    pub lost: u32,
    /// Messages that are late, of a million.
    pub late: u32,
    /// How late (us), at the most.
    pub late_us: u64,
}

/// Rare things that happened on the links.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Seen {
    /// Messages that have overtaken an earlier one.
    pub overtook: u64,
    /// Messages that waited for a stream which stood still, and arrived.
    pub waited: u64,
}

/// All links.
pub struct Peers {
    rng: Rng,
    delay_us: (u64, u64),
    /// Partitions, by the number of the fault: pairs between which nothing passes, in this direction.
    cuts: BTreeMap<u64, BTreeSet<(u32, u32)>>,
    links: BTreeMap<(u32, u32, u8), Link>,
    /// What bad weather draws, and the bad weather that there is, by the number of the fault.
    bad: Rng,
    weather: BTreeMap<u64, Weather>,
    /// Streams that stand still, by the number of the fault, and what waits for them.
    still: BTreeMap<u64, (u32, u32, Stream)>,
    waiting: BTreeMap<(u32, u32, Stream), Vec<Message>>,
    /// Since when each stream stands still, or stood when it last did, and until when (us).
    spells: BTreeMap<(u32, u32, Stream), (u64, Option<u64>)>,
    /// When the last message arrives that has a stream for itself.
    last_alone_us: BTreeMap<(u32, u32), u64>,
    /// What was rare.
    pub seen: Seen,
}

impl Peers {
    /// Links of the run with this seed, with this shortest and longest delay.
    pub fn new(seed: u64, delay_us: (u64, u64)) -> Peers {
        Peers {
            rng: Rng::new(seed, "peers"),
            delay_us,
            cuts: BTreeMap::new(),
            links: BTreeMap::new(),
            bad: Rng::new(seed, "bad weather between peers"),
            weather: BTreeMap::new(),
            still: BTreeMap::new(),
            waiting: BTreeMap::new(),
            spells: BTreeMap::new(),
            last_alone_us: BTreeMap::new(),
            seen: Seen::default(),
        }
    }

    /// Cuts pairs, as the fault with this number.
    pub fn cut(&mut self, fault: u64, pairs: BTreeSet<(u32, u32)>) {
        self.cuts.insert(fault, pairs);
    }

    /// The fault is over. Messages that waited, and when they arrive.
    pub fn mend(&mut self, fault: u64, now_us: u64) -> Vec<Arriving> {
        self.cuts.remove(&fault);
        let mut freed = Vec::new();
        let whole: Vec<(u32, u32, u8)> =
            self.links.keys().copied().filter(|(a, b, _)| self.open(*a, *b)).collect();
        for (from, to, lane) in whole {
            let link = self.links.get_mut(&(from, to, lane));
            let stalled = link.and_then(|link| link.stalled.take());
            let Some((since_us, messages)) = stalled else { continue };
            if now_us < since_us + PATIENCE_US {
                for message in messages {
                    freed.extend(self.send(now_us, from, to, message));
                }
            } else {
                // What waited for a stream of this connection has gone with it.
                self.waiting.retain(|(a, b, stream), _| {
                    (*a, *b) != (from, to) || lane != u8::from(*stream == Stream::Log)
                });
            }
        }
        freed
    }

    /// The weather turns bad, as the fault with this number.
    pub fn worsen(&mut self, fault: u64, weather: Weather) {
        self.weather.insert(fault, weather);
    }

    /// That bad weather is over.
    pub fn clear(&mut self, fault: u64) {
        self.weather.remove(&fault);
    }

    /// A stream stands still, as the fault with this number.
    pub fn hold(&mut self, fault: u64, now_us: u64, stream: (u32, u32, Stream)) {
        if !self.still.values().any(|still| *still == stream) {
            self.spells.insert(stream, (now_us, None));
        }
        self.still.insert(fault, stream);
    }

    /// Since when (us) a stream stands still, or stood when it last did, and until when.
    pub fn spell(&self, stream: (u32, u32, Stream)) -> Option<(u64, Option<u64>)> {
        self.spells.get(&stream).copied()
    }

    /// It moves on. Messages that waited, and when they arrive.
    pub fn release(&mut self, fault: u64, now_us: u64) -> Vec<Arriving> {
        let Some(stream) = self.still.remove(&fault) else { return Vec::new() };
        if self.still.values().any(|other| *other == stream) {
            return Vec::new();
        }
        if let Some((_, until_us)) = self.spells.get_mut(&stream) {
            *until_us = Some(now_us);
        }
        let (from, to, _) = stream;
        let mut waiting = self.waiting.remove(&stream).unwrap_or_default();
        if self.open(from, to) {
            let freed = waiting.into_iter().filter_map(|m| self.send(now_us, from, to, m));
            let freed: Vec<Arriving> = freed.collect();
            self.seen.waited += freed.len() as u64;
            return freed;
        }
        // The link has been cut meanwhile: they wait before what was sent since.
        let Some(lane) = waiting.first().map(Message::lane) else { return Vec::new() };
        let link = self.links.entry((from, to, lane)).or_default();
        let (_, later) = link.stalled.get_or_insert((now_us, Vec::new()));
        waiting.append(later);
        *later = waiting;
        Vec::new()
    }

    /// Whether every message gets through.
    pub fn whole(&self) -> bool {
        self.cuts.is_empty()
    }

    /// Whether a message gets from one to the other.
    pub fn passes(&self, from: u32, to: u32) -> bool {
        !self.cuts.values().any(|pairs| pairs.contains(&(from, to)))
    }

    /// Whether a connection between them works: nothing is delivered that is not acknowledged.
    pub fn open(&self, a: u32, b: u32) -> bool {
        self.passes(a, b) && self.passes(b, a)
    }

    fn is_still(&self, from: u32, to: u32, stream: Stream) -> bool {
        self.still.values().any(|still| *still == (from, to, stream))
    }

    fn between(&self, a: u32, b: u32) -> impl Iterator<Item = &Weather> {
        self.weather.values().filter(move |w| w.of.is_none_or(|of| of == a || of == b))
    }

    /// How late a message is because of the weather (us); none: a heartbeat that is not sent.
    fn weathered(&mut self, from: u32, to: u32, heartbeat: bool) -> Option<u64> {
        let all: Vec<Weather> = self.between(from, to).copied().collect();
        let mut late_us = 0;
        for weather in all {
            if heartbeat && self.bad.chance(weather.lost.into(), MILLION) {
                return None;
            }
            if self.bad.chance(weather.late.into(), MILLION) {
                late_us += self.bad.between(0, weather.late_us);
            }
        }
        Some(late_us)
    }

    /// When a message arrives that has a stream for itself.
    fn alone(&mut self, at_us: u64, from: u32, to: u32, message: Message) -> Arriving {
        let last_us = self.last_alone_us.entry((from, to)).or_default();
        self.seen.overtook += u64::from(at_us < *last_us);
        *last_us = at_us.max(*last_us);
        (at_us, from, to, message)
    }

    /// Sends a message; tells when it arrives, if it is on its way.
    pub fn send(&mut self, now_us: u64, from: u32, to: u32, message: Message) -> Option<Arriving> {
        let delay = self.rng.between(self.delay_us.0, self.delay_us.1);
        let bad = self.between(from, to).next().is_some();
        if message.alone() {
            let late_us = self.weathered(from, to, true)?;
            let at_us = now_us + delay + late_us;
            return self.passes(from, to).then(|| self.alone(at_us, from, to, message));
        }
        let open = self.open(from, to);
        if !open {
            let link = self.links.entry((from, to, message.lane())).or_default();
            let (since_us, waiting) = link.stalled.get_or_insert((now_us, Vec::new()));
            if now_us < *since_us + PATIENCE_US && waiting.len() < WAITING {
                waiting.push(message);
            }
            return None;
        }
        if let Some(stream) = message.stream()
            && self.is_still(from, to, stream)
        {
            let waiting = self.waiting.entry((from, to, stream)).or_default();
            if waiting.len() >= QUEUED {
                waiting.remove(0);
            }
            waiting.push(message);
            return None;
        }
        let late_us = self.weathered(from, to, false)?;
        let at_us = now_us + delay + late_us;
        if bad && message.stream().is_none() {
            return Some(self.alone(at_us, from, to, message));
        }
        let link = self.links.entry((from, to, message.lane())).or_default();
        link.last_us = link.last_us.max(at_us);
        Some((link.last_us, from, to, message))
    }

    /// A process has ended: its connections are gone.
    pub fn gone(&mut self, director: u32) {
        self.links.retain(|(from, to, _), _| *from != director && *to != director);
        self.waiting.retain(|(from, to, _), _| *from != director && *to != director);
    }
}

#[cfg(test)]
mod tests {
    use holdfast_state_store::codec::wire::Registration;

    use super::*;

    fn peers() -> Peers {
        Peers::new(1, (10, 500))
    }

    fn beat(sequence: u64) -> Message {
        Message::Heartbeat { incarnation: 1, sequence, views: Vec::new() }
    }

    fn batch() -> Message {
        Message::Registration(Registration { twins: Vec::new(), resync: None })
    }

    #[test]
    fn order_is_kept_and_a_short_cut_only_delays() {
        let mut peers = peers();
        let send = |peers: &mut Peers, now| peers.send(now, 1, 2, Message::Applied);
        let arrivals: Vec<u64> =
            (0..20).filter_map(|now| send(&mut peers, now).map(|m| m.0)).collect();
        assert!(arrivals.is_sorted() && arrivals.len() == 20);
        // One way is enough: nothing is acknowledged any more.
        peers.cut(7, [(2, 1)].into());
        assert!(send(&mut peers, 1_000).is_none());
        assert_eq!(peers.mend(7, 500_000).len(), 1);
        peers.cut(8, [(1, 2)].into());
        assert!(send(&mut peers, 1_000_000).is_none());
        assert!(peers.mend(8, 9_000_000).is_empty(), "the connection broke");
        assert!(send(&mut peers, 9_000_001).is_some());
    }

    #[test]
    fn heartbeats_pass_one_way() {
        let mut peers = peers();
        peers.cut(1, [(2, 1)].into());
        assert!(peers.send(0, 1, 2, beat(1)).is_some());
        assert!(peers.send(0, 2, 1, beat(1)).is_none());
    }

    #[test]
    fn in_bad_weather_streams_keep_their_order_and_what_is_alone_does_not() {
        let mut peers = peers();
        peers.worsen(3, Weather { of: Some(2), lost: 300_000, late: 500_000, late_us: 80_000 });
        let mut arrivals = |to: u32, message: &dyn Fn(u64) -> Message| -> Vec<u64> {
            let sent = (0..200).filter_map(|n| peers.send(n * 2_000, 1, to, message(n)));
            sent.map(|(at_us, ..)| at_us).collect()
        };
        let late = |arrivals: &[u64]| arrivals.windows(2).any(|two| two[1] > two[0] + 20_000);
        let streamed = arrivals(2, &|_| batch());
        assert!(streamed.len() == 200 && streamed.is_sorted() && late(&streamed));
        let beats = arrivals(2, &beat);
        assert!((100..180).contains(&beats.len()) && !beats.is_sorted(), "{}", beats.len());
        let requests = arrivals(2, &|_| Message::Applied);
        assert!(requests.len() == 200 && !requests.is_sorted(), "a request is late, and not lost");
        let elsewhere = arrivals(3, &beat);
        assert!(elsewhere.len() == 200 && elsewhere.is_sorted());
        let overtook = peers.seen.overtook;
        peers.clear(3);
        let sent = (0..200).filter_map(|n| peers.send(900_000 + n * 2_000, 1, 2, beat(n)));
        assert_eq!((sent.count(), overtook > 0), (200, true));
    }

    #[test]
    fn a_stream_that_stands_still_delays_what_is_sent_on_it_and_nothing_else() {
        let mut peers = peers();
        peers.hold(4, 0, (1, 2, Stream::Control));
        assert!((0..5).all(|now| peers.send(now, 1, 2, batch()).is_none()));
        assert!(peers.send(5, 1, 2, beat(1)).is_some() && peers.send(5, 2, 1, batch()).is_some());
        assert!(peers.send(5, 1, 2, Message::Applied).is_some(), "a request");
        let freed = peers.release(4, 4_000_000);
        assert!(freed.len() == 5 && freed.iter().map(|m| m.0).is_sorted());
        assert_eq!((freed[0].0 > 4_000_000, peers.seen.waited), (true, 5));
        assert_eq!(peers.spell((1, 2, Stream::Control)), Some((0, Some(4_000_000))));
        assert_eq!(peers.spell((1, 2, Stream::Log)), None);
    }

    #[test]
    fn what_waits_for_a_stream_is_lost_with_its_connection() {
        for (mended_us, left) in [(2_000_000, 2), (8_000_000, 0)] {
            let mut peers = peers();
            peers.hold(4, 0, (1, 2, Stream::Control));
            assert!(peers.send(0, 1, 2, batch()).is_none());
            peers.cut(5, [(1, 2)].into());
            assert!(peers.send(1_000_000, 1, 2, batch()).is_none());
            assert!(peers.mend(5, mended_us).is_empty(), "it stands still");
            assert_eq!(peers.release(4, mended_us).len(), left);
        }
        // And it moves on while the link is cut.
        let mut peers = peers();
        peers.hold(4, 0, (1, 2, Stream::Control));
        assert!(peers.send(0, 1, 2, batch()).is_none());
        peers.cut(5, [(1, 2)].into());
        assert!(peers.release(4, 1_000_000).is_empty());
        assert_eq!(peers.mend(5, 2_000_000).len(), 1);
    }
}
