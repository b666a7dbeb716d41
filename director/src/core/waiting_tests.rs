use super::*;
use holdfast_schema::flow::Protocol;
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};

fn key(n: u16) -> FlowKey {
    FlowKey::new(Protocol::Tcp, ([192, 0, 2, 1], n).into(), ([203, 0, 113, 10], 80).into())
}

fn room(packets: u32, flows: u32, packets_a_flow: u32) -> WaitingRoom {
    let size = RoomSize { packets, flows, packets_a_flow, bytes_a_packet: 4 };
    WaitingRoom::new(size, RandomState::with_seeds(1, 2, 3, 4))
}

fn park(room: &mut WaitingRoom, n: u16, now: u64, byte: u8) -> Result<(), DropReason> {
    room.park(&key(n), MissKind::Tcp, WaitFor::Answer, now, &[byte])
}

#[test]
fn every_bound_has_its_name() {
    let mut room = room(3, 2, 2);
    assert_eq!(park(&mut room, 1, 0, 0), Ok(()));
    assert_eq!(park(&mut room, 1, 0, 0), Ok(()));
    assert_eq!(park(&mut room, 1, 0, 0), Err(DropReason::WaitingFlowFull));
    let large = room.park(&key(2), MissKind::Tcp, WaitFor::Answer, 0, &[0; 5]);
    assert_eq!(large, Err(DropReason::ParkTooLarge));
    assert_eq!(room.flows(), 1, "a refused packet leaves no flow behind");
    assert_eq!(park(&mut room, 2, 0, 0), Ok(()));
    assert_eq!(park(&mut room, 2, 0, 0), Err(DropReason::WaitingRoomFull));
    assert_eq!((room.len(), room.flows()), (3, 2));
}

#[test]
fn questions_are_repeated_and_forgotten_with_their_flow() {
    let mut room = room(3, 2, 2);
    park(&mut room, 1, 0, 0).unwrap();
    let ask = |room: &mut WaitingRoom, now| {
        let mut asked = Vec::new();
        room.due(now, 5, |q, again| asked.push((q.key.src_port, q.id, again)));
        asked
    };
    let first = ask(&mut room, 0);
    let id = first[0].1;
    assert_eq!(first, [(1, id, false)]);
    assert_eq!(ask(&mut room, 4), []);
    assert_eq!(ask(&mut room, 5), [(1, id, true)]);
    assert_eq!(room.asked(id), Some(key(1)));
    room.detach(&key(1)).unwrap();
    assert_eq!(room.asked(id), None);
    park(&mut room, 2, 0, 0).unwrap();
    assert_eq!(room.asked(id), None, "the record was used again, with another id");
}

#[derive(Clone, Debug)]
enum Step {
    Park(u16),
    Release(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![3 => (0u16..12).prop_map(Step::Park), 1 => (0u16..12).prop_map(Step::Release)]
}

proptest! {
    /// Against a map of queues: the same packets come out in the same order, and nothing leaks.
    #[test]
    fn behaves_like_a_map_of_queues(steps in proptest::collection::vec(step(), 1..400)) {
        let mut room = room(16, 8, 4);
        let mut model: BTreeMap<u16, VecDeque<u8>> = BTreeMap::new();
        let mut order: Vec<u16> = Vec::new();
        for (now, step) in steps.into_iter().enumerate() {
            let byte = now as u8;
            match step {
                Step::Park(n) => {
                    let total: usize = model.values().map(VecDeque::len).sum();
                    let flow = model.get(&n).map_or(0, VecDeque::len);
                    let expected = if flow >= 4 {
                        Err(DropReason::WaitingFlowFull)
                    } else if total >= 16 || (flow == 0 && model.len() >= 8) {
                        Err(DropReason::WaitingRoomFull)
                    } else {
                        if flow == 0 {
                            order.push(n);
                        }
                        model.entry(n).or_default().push_back(byte);
                        Ok(())
                    };
                    prop_assert_eq!(park(&mut room, n, now as u64, byte), expected);
                }
                Step::Release(n) => {
                    let expected = model.remove(&n);
                    order.retain(|k| *k != n);
                    let mut got = expected.as_ref().map(|_| VecDeque::new());
                    if let Some(mut chain) = room.detach(&key(n)) {
                        let got = got.get_or_insert_with(VecDeque::new);
                        while let Some(parcel) = room.take(&mut chain) {
                            got.push_back(parcel.data[0]);
                            prop_assert_eq!(parcel.len, 1);
                            room.give_back(parcel);
                        }
                    }
                    prop_assert_eq!(got, expected);
                }
            }
            prop_assert_eq!(room.len() as usize, model.values().map(VecDeque::len).sum::<usize>());
            prop_assert_eq!(room.flows() as usize, model.len());
            for n in 0..12 {
                prop_assert_eq!(room.holds(&key(n)), model.contains_key(&n));
            }
            let mut keys = Vec::with_capacity(8);
            room.list(&mut keys);
            let keys: Vec<u16> = keys.iter().map(|w: &Waiting| w.key.src_port).collect();
            prop_assert_eq!(&keys, &order);
        }
    }
}
