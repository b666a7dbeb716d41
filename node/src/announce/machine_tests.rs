use super::*;
use holdfast_schema::cluster::DirectorId;

const FULL: Wish = Wish { vips: Level::Normal, lips: Level::Normal };

/// The world around a machine: cluster, BIRD and guard do at once what they are asked to.
struct World {
    machine: Machine,
    inputs: Inputs,
    /// The routers stop sending as soon as VIPs are worse.
    obedient_routers: bool,
    asked: Vec<Ask>,
    wishes: Vec<Wish>,
}

impl World {
    fn new(state: MemberState) -> World {
        let inputs = Inputs {
            now_ms: 1_000,
            state: Some(state),
            planned: Vec::new(),
            others_drain_first: false,
            quorum: true,
            caught_up: Ok(()),
            local: Vec::new(),
            guard: true,
            flushed: None,
            shown: Some(Wish::default()),
            votes: 0,
            votes_movable: true,
            quiet_clients_ms: 0,
            quiet_all_ms: 0,
            quiet_new_ms: 0,
            unreplicated: 0,
            others_serve: Ok(()),
        };
        let machine = Machine::new(1_000);
        World { machine, inputs, obedient_routers: true, asked: vec![], wishes: vec![] }
    }

    fn tick(&mut self) -> Outputs {
        self.inputs.now_ms += 20;
        let quiet = self.obedient_routers && self.machine.last_wish.vips <= Level::Draining;
        for quiet_ms in [
            &mut self.inputs.quiet_clients_ms,
            &mut self.inputs.quiet_new_ms,
            &mut self.inputs.quiet_all_ms,
        ] {
            *quiet_ms = if quiet { *quiet_ms + 20 } else { 0 };
        }
        let out = self.machine.step(&self.inputs);
        for ask in &out.asks {
            match ask {
                Ask::Begin(kind) if self.inputs.quorum => {
                    let id = 7 + self.asked.len() as u64;
                    self.inputs.planned.push(PlannedChange {
                        id,
                        director: DirectorId(1),
                        kind: *kind,
                    });
                }
                Ask::End(id) => self.inputs.planned.retain(|p| p.id != *id),
                Ask::Active => self.inputs.state = Some(MemberState::Active),
                Ask::Drained => self.inputs.state = Some(MemberState::Drained),
                Ask::Begin(_) => {}
            }
        }
        self.inputs.flushed = out.flush.filter(|_| self.inputs.quorum);
        self.inputs.shown = self.inputs.shown.map(|_| out.wish);
        self.asked.extend(&out.asks);
        if self.wishes.last() != Some(&out.wish) {
            self.wishes.push(out.wish);
        }
        out
    }

    fn run(&mut self, ms: u64) {
        for _ in 0..ms / 20 {
            self.tick();
        }
    }

    fn serving() -> World {
        let mut world = World::new(MemberState::Active);
        world.run(1_000);
        assert_eq!(world.machine.stage(), &Stage::Serving);
        world
    }
}

#[test]
fn a_joiner_announces_lips_then_vips_and_ends_its_planned_change() {
    let mut world = World::new(MemberState::Joining);
    world.run(1_000);
    assert!(world.machine.ready());
    let lips_first = Wish { vips: Level::Nothing, lips: Level::Normal };
    assert_eq!(world.wishes, [Wish::default(), lips_first, FULL]);
    assert_eq!(world.asked, [Ask::Begin(PlannedKind::Join), Ask::Active]);
    world.run(8_500);
    assert_eq!(world.asked.len(), 2, "not before ten seconds have passed");
    world.run(2_000);
    assert_eq!(world.asked.last(), Some(&Ask::End(7)));
    assert!(world.inputs.planned.is_empty());
}

#[test]
fn nothing_is_announced_before_everything_is_in_place() {
    type Break = fn(&mut Inputs);
    let breaks: [(&str, Break); 5] = [
        ("quorum", |i| i.quorum = false),
        ("catching up", |i| i.caught_up = Err("shard-3 lags".to_owned())),
        ("local", |i| i.local = vec!["no rule".to_owned()]),
        ("guard", |i| i.guard = false),
        ("member", |i| i.state = None),
    ];
    for (name, break_it) in breaks {
        let mut world = World::new(MemberState::Active);
        break_it(&mut world.inputs);
        world.run(5_000);
        assert_eq!(world.wishes, [Wish::default()], "{name}");
        assert!(!world.machine.not_ready().is_empty(), "{name}");
    }
}

#[test]
fn it_waits_for_the_flush_of_all() {
    let mut world = World::new(MemberState::Active);
    for _ in 0..200 {
        world.tick();
        world.inputs.flushed = None;
    }
    assert!(matches!(world.machine.stage(), Stage::Flushing(_)));
    assert_eq!(world.wishes, [Wish::default()]);
}

#[test]
fn what_was_flushed_for_an_earlier_approach_does_not_count() {
    let mut world = World::new(MemberState::Active);
    // Its last life began a planned change, and ended before that did. All have flushed for it, then.
    let (director, kind) = (DirectorId(1), PlannedKind::Join);
    world.inputs.planned.push(PlannedChange { id: 3, director, kind });
    world.run(2_000);
    assert_eq!(world.machine.stage(), &Stage::Serving);
    assert_eq!(world.asked[..2], [Ask::End(3), Ask::Begin(PlannedKind::Join)]);
}

#[test]
fn a_cold_start_without_a_leader_announces_worse_and_then_joins_without_a_gap() {
    let mut world = World::new(MemberState::Active);
    world.inputs.quorum = false;
    world.run(9_000);
    assert_eq!(world.wishes, [Wish::default()]);
    world.run(2_000);
    let worse = Wish { vips: Level::Worse, lips: Level::Worse };
    assert_eq!(world.wishes, [Wish::default(), worse]);
    world.inputs.quorum = true;
    world.tick();
    assert_eq!(world.machine.stage(), &Stage::Down, "it does not trust the first sight");
    world.run(2_000);
    assert_eq!(world.machine.stage(), &Stage::Serving);
    assert!(world.wishes[1..].iter().all(|w| w.vips >= Level::Worse), "{:?}", world.wishes);
}

#[test]
fn an_election_moves_nothing_but_being_cut_off_announces_worse() {
    let mut world = World::serving();
    world.inputs.quorum = false;
    world.run(3_000);
    world.inputs.quorum = true;
    world.run(3_000);
    assert_eq!(world.wishes.last(), Some(&FULL));
    world.inputs.quorum = false;
    world.run(5_000);
    assert_eq!(world.wishes.last(), Some(&Wish { vips: Level::Worse, lips: Level::Normal }));
    world.inputs.quorum = true;
    world.run(3_000);
    assert_eq!(world.wishes.last(), Some(&FULL));
}

#[test]
fn a_local_fault_while_serving_does_not_withdraw() {
    let mut world = World::serving();
    world.inputs.local = vec!["the router does not answer ARP".to_owned()];
    world.run(2_000);
    assert_eq!(world.wishes.last(), Some(&FULL), "the router's own BFD judges that");
}

#[test]
fn after_a_release_it_comes_back_like_a_joiner() {
    let mut world = World::serving();
    world.asked.clear();
    world.inputs.planned.clear();
    world.machine.fell(world.inputs.now_ms, "the guard let go");
    assert!(!world.machine.ready());
    world.run(2_000);
    assert_eq!(world.machine.stage(), &Stage::Serving);
    assert_eq!(world.asked, [Ask::Begin(PlannedKind::Join)]);
    assert!(world.wishes.contains(&Wish::default()));
}

#[test]
fn a_drain_goes_through_its_steps_and_an_undrain_comes_back() {
    let mut world = World::serving();
    world.run(12_000);
    world.asked.clear();
    world.wishes.clear();
    world.inputs.state = Some(MemberState::Draining);
    world.run(6_000);
    assert_eq!(world.machine.stage(), &Stage::Drained);
    let worse = |lips| Wish { vips: Level::Draining, lips };
    assert_eq!(world.wishes, [FULL, worse(Level::Normal), worse(Level::Draining), Wish::default()]);
    assert_eq!(world.asked, [Ask::Begin(PlannedKind::Drain), Ask::Drained]);
    world.run(12_000);
    assert!(world.inputs.planned.is_empty(), "ended ten seconds after the withdrawal");
    world.inputs.state = Some(MemberState::Active);
    world.run(2_000);
    assert!(world.asked.contains(&Ask::Begin(PlannedKind::Undrain)));
    assert_eq!(world.machine.stage(), &Stage::Serving);
}

#[test]
fn routers_that_ignore_the_signal_are_overruled_by_withdrawal() {
    let mut world = World::serving();
    world.obedient_routers = false;
    world.inputs.state = Some(MemberState::Draining);
    world.run(4_000);
    assert_eq!(world.wishes.last(), Some(&Wish { vips: Level::Nothing, lips: Level::Normal }));
    let Stage::Draining(drain) = world.machine.stage() else {
        panic!("{:?}", world.machine.stage())
    };
    assert!(drain.notes().iter().any(|n| n.contains("ignores")));
    world.obedient_routers = true;
    world.run(6_000);
    assert_eq!(world.machine.stage(), &Stage::Drained);
}

#[test]
fn a_drain_waits_for_an_earlier_one_and_for_unreplicated_sessions() {
    let mut world = World::serving();
    world.inputs.state = Some(MemberState::Draining);
    world.inputs.others_drain_first = true;
    world.run(3_000);
    assert_eq!(world.wishes.last(), Some(&FULL));
    world.inputs.others_drain_first = false;
    world.inputs.unreplicated = 5;
    world.run(4_000);
    assert_eq!(world.wishes.last(), Some(&Wish { vips: Level::Draining, lips: Level::Normal }));
    world.inputs.unreplicated = 0;
    world.run(3_000);
    assert_eq!(world.machine.stage(), &Stage::Drained);
}

#[test]
fn a_drain_waits_for_its_votes_to_move_but_not_in_vain() {
    let mut world = World::serving();
    world.inputs.votes = 17;
    world.inputs.state = Some(MemberState::Draining);
    world.run(3_000);
    assert_eq!(world.wishes.last(), Some(&FULL), "the votes first");
    world.inputs.votes_movable = false;
    world.run(4_000);
    assert_eq!(world.machine.stage(), &Stage::Drained);
}

#[test]
fn a_drain_interrupted_by_a_restart_ends_without_announcing() {
    let mut world = World::new(MemberState::Draining);
    world.run(10_000);
    assert_eq!(world.machine.stage(), &Stage::Drained);
    assert_eq!(world.wishes, [Wish::default()]);
}

#[test]
fn a_release_in_the_middle_of_a_drain_announces_nothing_again() {
    let mut world = World::serving();
    world.inputs.state = Some(MemberState::Draining);
    world.run(500);
    world.wishes.clear();
    world.machine.fell(world.inputs.now_ms, "the guard let go");
    world.run(8_000);
    assert_eq!(world.machine.stage(), &Stage::Drained);
    assert_eq!(world.wishes, [Wish::default()]);
}

#[test]
fn an_undrain_in_the_middle_of_a_drain_never_withdraws() {
    let mut world = World::serving();
    world.wishes.clear();
    world.inputs.state = Some(MemberState::Draining);
    world.run(500);
    world.inputs.state = Some(MemberState::Active);
    world.run(3_000);
    assert_eq!(world.machine.stage(), &Stage::Serving);
    assert_eq!(world.wishes.last(), Some(&FULL));
    assert!(world.wishes.iter().all(Wish::any), "{:?}", world.wishes);
}

/// The step of a drain, and what it says.
fn drain_of(world: &World) -> (DrainStep, String) {
    match world.machine.stage() {
        Stage::Draining(drain) => (drain.step_now(), drain.notes().join("; ")),
        other => panic!("{other:?}"),
    }
}

const LAST_RESORT: Wish = Wish { vips: Level::Draining, lips: Level::Normal };

#[test]
fn a_drain_stays_the_last_resort_while_nobody_else_serves() {
    let mut world = World::serving();
    world.inputs.state = Some(MemberState::Draining);
    world.run(200);
    assert_eq!(drain_of(&world).0, DrainStep::VipsWorse);
    // The only other one dies: of course the router uses this one then.
    world.inputs.others_serve = Err("d2 is down".to_owned());
    world.obedient_routers = false;
    world.run(60_000);
    assert_eq!(world.wishes.last(), Some(&LAST_RESORT));
    let (step, notes) = drain_of(&world);
    assert_eq!(step, DrainStep::VipsWorse);
    assert!(notes.contains("d2 is down") && !notes.contains("ignores"), "{notes}");
    world.inputs.others_serve = Ok(());
    world.obedient_routers = true;
    world.run(6_000);
    assert_eq!(world.machine.stage(), &Stage::Drained);
}

#[test]
fn a_drain_that_withdrew_comes_back_as_the_last_resort_when_the_others_die() {
    let at_the_end = Wish { vips: Level::Draining, lips: Level::Draining };
    for withdrawn in [false, true] {
        let mut world = World::serving();
        world.obedient_routers = !withdrawn;
        world.inputs.state = Some(MemberState::Draining);
        let wanted = if withdrawn { DrainStep::VipsWorse } else { DrainStep::Quiet };
        for _ in 0..1_000 {
            world.tick();
            let (step, notes) = drain_of(&world);
            if step == wanted && notes.contains("ignores") == withdrawn {
                break;
            }
        }
        assert_eq!(drain_of(&world).0, wanted);
        world.inputs.others_serve = Err("d2 is down".to_owned());
        world.run(2_000);
        let wish = world.wishes.last();
        assert_eq!(wish, Some(if withdrawn { &LAST_RESORT } else { &at_the_end }));
        world.inputs.others_serve = Ok(());
        world.obedient_routers = true;
        world.run(8_000);
        assert_eq!(world.machine.stage(), &Stage::Drained);
    }
}

#[test]
fn a_held_up_drain_flushes_anew_if_its_planned_change_was_ended_meanwhile() {
    let mut world = World::serving();
    world.inputs.state = Some(MemberState::Draining);
    world.run(200);
    world.inputs.others_serve = Err("d2 is down".to_owned());
    world.run(1_000);
    world.inputs.planned.clear();
    world.asked.clear();
    world.run(1_000);
    assert_eq!(world.asked, [], "it has no need of one while it waits");
    world.inputs.others_serve = Ok(());
    world.tick();
    assert_eq!(world.asked, [Ask::Begin(PlannedKind::Drain)]);
    let out = world.tick();
    assert_eq!(out.flush, world.inputs.planned.first().map(|p| p.id));
    assert_eq!(out.wish, LAST_RESORT);
    world.run(6_000);
    assert_eq!(world.machine.stage(), &Stage::Drained);
}

#[test]
fn a_drain_never_goes_on_with_sessions_that_only_it_knows() {
    let mut world = World::serving();
    world.inputs.state = Some(MemberState::Draining);
    world.run(200);
    world.inputs.unreplicated = 5;
    world.inputs.quorum = false;
    world.run(60_000);
    assert_eq!(world.wishes.last(), Some(&LAST_RESORT));
    let (step, notes) = drain_of(&world);
    assert_eq!(step, DrainStep::VipsWorse);
    assert!(notes.contains("5 sessions"), "{notes}");
    world.inputs.quorum = true;
    world.run(20_000);
    assert_eq!(drain_of(&world).0, DrainStep::VipsWorse, "a leader alone replicates nothing");
    world.inputs.unreplicated = 0;
    world.run(3_000);
    assert_eq!(world.machine.stage(), &Stage::Drained);
}

#[test]
fn clients_that_keep_coming_are_no_reason_to_drain_for_ever() {
    let mut world = World::serving();
    world.obedient_routers = false;
    world.inputs.state = Some(MemberState::Draining);
    world.inputs.unreplicated = 1;
    world.run(40_000);
    assert_eq!(world.machine.stage(), &Stage::Drained);
}

#[test]
fn a_director_that_is_announced_as_worse_is_drained_from_there() {
    let mut world = World::new(MemberState::Active);
    world.inputs.quorum = false;
    world.run(12_000);
    let worse = Wish { vips: Level::Worse, lips: Level::Worse };
    assert_eq!(world.wishes.last(), Some(&worse));
    world.wishes.clear();
    world.inputs.state = Some(MemberState::Draining);
    world.inputs.quorum = true;
    world.run(8_000);
    assert_eq!(world.machine.stage(), &Stage::Drained);
    let at_last = Wish { vips: Level::Draining, lips: Level::Draining };
    let first = Wish { vips: Level::Draining, lips: Level::Worse };
    assert_eq!(world.wishes, [worse, first, at_last, Wish::default()]);
}

mod any_order {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Copy, Debug)]
    enum Event {
        Quorum(bool),
        CaughtUp(bool),
        Local(bool),
        Fell,
        State(u8),
        Others(bool),
        Unreplicated(bool),
        Obedient(bool),
        Wait(u16),
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            any::<bool>().prop_map(Event::Quorum),
            any::<bool>().prop_map(Event::CaughtUp),
            any::<bool>().prop_map(Event::Local),
            Just(Event::Fell),
            (0u8..3).prop_map(Event::State),
            any::<bool>().prop_map(Event::Others),
            any::<bool>().prop_map(Event::Unreplicated),
            any::<bool>().prop_map(Event::Obedient),
            (1u16..3_000).prop_map(Event::Wait),
        ]
    }

    /// A tick. A drain raises no level, but for the last resort when nobody else serves; and it
    /// withdraws nothing then.
    fn drains_only_lower(world: &mut World) -> Result<Outputs, TestCaseError> {
        let before = world.machine.last_wish;
        let out = world.tick();
        if matches!(world.machine.stage(), Stage::Draining(_)) {
            let alone = world.inputs.others_serve.is_err();
            for (before, now) in [(before.vips, out.wish.vips), (before.lips, out.wish.lips)] {
                let last_resort = alone && now == Level::Draining;
                prop_assert!(now <= before || last_resort, "{before:?} -> {now:?}");
                prop_assert!(now == before || !alone || now != Level::Nothing);
            }
        }
        Ok(out)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// Whatever happens, VIPs reach the normal level only after a flush for a planned change,
        /// and when everything is well again the director ends up where its operator wants it.
        #[test]
        fn it_ends_where_the_operator_wants_it(events in proptest::collection::vec(event(), 0..40)) {
            let mut world = World::new(MemberState::Active);
            for event in events {
                match event {
                    Event::Quorum(q) => world.inputs.quorum = q,
                    Event::CaughtUp(true) => world.inputs.caught_up = Ok(()),
                    Event::CaughtUp(false) => world.inputs.caught_up = Err("lags".to_owned()),
                    Event::Local(true) => world.inputs.local.clear(),
                    Event::Local(false) => world.inputs.local = vec!["fault".to_owned()],
                    Event::Fell => {
                        let now = world.inputs.now_ms;
                        world.machine.fell(now, "test");
                    }
                    Event::State(0) => world.inputs.state = Some(MemberState::Active),
                    Event::State(1) => world.inputs.state = Some(MemberState::Draining),
                    Event::State(_) => world.inputs.state = None,
                    Event::Others(true) => world.inputs.others_serve = Ok(()),
                    Event::Others(false) => world.inputs.others_serve = Err("down".to_owned()),
                    Event::Unreplicated(u) => world.inputs.unreplicated = u64::from(u),
                    Event::Obedient(o) => world.obedient_routers = o,
                    Event::Wait(ms) => {
                        for _ in 0..ms / 20 {
                            drains_only_lower(&mut world)?;
                        }
                    }
                }
                let before = world.machine.last_wish;
                let out = drains_only_lower(&mut world)?;
                if out.wish.vips == Level::Normal && before.vips != Level::Normal {
                    prop_assert!(!matches!(world.machine.stage(), Stage::Down | Stage::Planning | Stage::Flushing(_)));
                }
            }
            world.inputs.quorum = true;
            world.inputs.caught_up = Ok(());
            world.inputs.local.clear();
            world.inputs.others_serve = Ok(());
            world.inputs.unreplicated = 0;
            world.obedient_routers = true;
            if world.inputs.state.is_none() {
                world.inputs.state = Some(MemberState::Active);
            }
            world.run(40_000);
            let end = match world.inputs.state {
                Some(MemberState::Active) => Stage::Serving,
                _ => Stage::Drained,
            };
            prop_assert_eq!(world.machine.stage(), &end);
            prop_assert!(world.inputs.planned.is_empty());
        }
    }
}
