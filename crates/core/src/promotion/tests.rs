//! Every journal state against every state a disk can be seen in, and every way through the machine.

use super::*;
use std::collections::{BTreeSet, VecDeque};

const OLD: u64 = 1;
const NEW: u64 = 2;
const OTHER: u64 = 9;
/// What one place can hold.
const ANYTHING: [u64; 4] = [0, OLD, NEW, OTHER];
/// A slot's places: live, aside, staged, undone.
type Disk = [u64; 4];

/// Marks of slot `i`: the slots' directories are different ones.
fn mark(what: u64, slot: usize) -> Option<Mark> {
    (what != 0).then_some(Mark { inode: what + 100 * slot as u64, born_ns: 7 })
}

fn staged(slots: usize) -> Staged {
    Staged {
        marks: (0..slots).map(|i| mark(NEW, i).unwrap()).collect(),
        version: "10.11.19".parse().unwrap(),
        tables: 1,
        tables_sha256: Sha256::of(b""),
        rows: vec![],
    }
}

fn journal(slots: usize, state: State) -> PromotionJournalV1 {
    let slot = |i: usize| Slot {
        live: format!("/db{i}").into(),
        aside: format!("/db{i}.old").into(),
        staged: format!("/db{i}.staged").into(),
        undone: format!("/db{i}.undone").into(),
        old: mark(OLD, i).unwrap(),
    };
    PromotionJournalV1 {
        format: PromotionJournalV1::FORMAT.into(),
        id: "20261122T020000Z-4f7c".parse().unwrap(),
        cluster: "orders".parse().unwrap(),
        host_id: "i-1".parse().unwrap(),
        backup_id: "20261122T010000Z-full-4f7c".parse().unwrap(),
        plan_sha256: Sha256::of(b"plan"),
        report_sha256: Sha256::of(b"report"),
        approval_sha256: Sha256::of(b"approval"),
        requester: "ann".into(),
        approvers: vec!["bob".into()],
        began_at: Timestamp::UNIX_EPOCH,
        restored_to: None,
        error_log: None,
        slots: (0..slots).map(slot).collect(),
        state,
        history: vec![],
    }
}

fn every_state(slots: usize) -> Vec<State> {
    let staged = staged(slots);
    let new = staged.marks.clone();
    let at = Timestamp::UNIX_EPOCH;
    let was = ReadOnly::default();
    let fence = Fence { was, last: None, at };
    let reason = || "why".to_owned();
    vec![
        State::Staging {},
        State::Smoking {},
        State::Fencing { staged: staged.clone(), was },
        State::Stopping { staged: staged.clone(), fence: fence.clone() },
        State::Swapping { staged: staged.clone(), fence: fence.clone() },
        State::Starting { staged: staged.clone(), fence: fence.clone(), log_from: 0 },
        State::Done { staged: staged.clone(), fence: fence.clone(), finished_at: at, checks: vec![] },
        State::Aborted { reason: reason(), finished_at: at },
        State::RollingBack { new, was, reason: reason() },
        State::RolledBack { reason: reason(), finished_at: at },
        State::Reverting { staged: staged.clone(), fence: fence.clone(), promoted: None },
        State::Reverted { finished_at: at, promoted: None },
        State::Reinstating { staged, fence, promoted: None, reason: reason() },
    ]
}

fn every_server() -> [ServerSeen; 4] {
    [ServerSeen::Stopped, ServerSeen::Silent, ServerSeen::Answering, ServerSeen::Unknown("?".into())]
}

fn every_disk() -> impl Iterator<Item = Disk> {
    (0..256).map(|n: usize| [ANYTHING[n & 3], ANYTHING[n >> 2 & 3], ANYTHING[n >> 4 & 3], ANYTHING[n >> 6 & 3]])
}

fn seen(disks: &[Disk], server: &ServerSeen) -> Observed {
    let slot = |(i, [live, aside, staged, undone]): (usize, &Disk)| SlotSeen {
        live: mark(*live, i),
        aside: mark(*aside, i),
        staged: mark(*staged, i),
        undone: mark(*undone, i),
    };
    Observed { slots: disks.iter().enumerate().map(slot).collect(), server: server.clone() }
}

fn index(place: Place) -> usize {
    match place {
        Place::Live => 0,
        Place::Aside => 1,
        Place::Staged => 2,
        Place::Undone => 3,
    }
}

/// Does one step to a model of disk and server, holding the rules that no step may break.
fn apply(step: Step, disks: &mut [Disk], server: &mut ServerSeen) {
    match step {
        Step::Move { slot, from, to } => {
            assert_eq!(*server, ServerSeen::Stopped, "moved while a server runs");
            let (from, to) = (index(from), index(to));
            assert_ne!(disks[slot][from], 0, "moved nothing");
            assert_ne!(disks[slot][from], OTHER, "moved what is not ours");
            assert_eq!(disks[slot][to], 0, "moved onto something");
            disks[slot].swap(from, to);
        }
        Step::Stop => *server = ServerSeen::Stopped,
        Step::Start => {
            let lives: BTreeSet<u64> = disks.iter().map(|d| d[0]).collect();
            assert!(lives == [OLD].into() || lives == [NEW].into(), "started on a mix or on nothing: {disks:?}");
            *server = ServerSeen::Answering;
        }
        Step::Wait => *server = ServerSeen::Answering,
        Step::Finish | Step::Abandon => {}
    }
}

fn step_of(decision: &Decision) -> Option<Step> {
    match decision {
        Decision::Forward(step) | Decision::Back(step) => Some(*step),
        Decision::Done | Decision::Ask(_) => None,
    }
}

/// Follows the machine to its end. Nothing may have been moved when it asks a person.
fn follow(journal: &PromotionJournalV1, goal: Goal, disks: &[Disk], server: &ServerSeen) -> Option<Vec<Disk>> {
    let (mut now, mut server) = (disks.to_vec(), server.clone());
    for _ in 0..16 {
        match next_step(journal, goal, &seen(&now, &server)) {
            Decision::Ask(_) => {
                assert_eq!(now, disks, "asked a person after moving something");
                return None;
            }
            Decision::Done => panic!("the machine has no end of its own"),
            decision => {
                assert_eq!(matches!(decision, Decision::Forward(_)), goal == Goal::New, "stepped the wrong way");
                let step = step_of(&decision).unwrap();
                if step == Step::Finish {
                    assert_eq!(server, ServerSeen::Answering);
                    return Some(now);
                }
                apply(step, &mut now, &mut server);
            }
        }
    }
    panic!("no end from {disks:?} towards {goal:?}")
}

fn holdings(disks: &[Disk]) -> Vec<Vec<u64>> {
    disks
        .iter()
        .map(|d| {
            let mut sorted = d.to_vec();
            sorted.sort_unstable();
            sorted
        })
        .collect()
}

#[test]
fn every_state_on_every_disk_ends_at_exactly_the_old_or_the_new_data_or_asks() {
    for state in every_state(1) {
        let journal = journal(1, state);
        for disk in every_disk() {
            for server in every_server() {
                let seen = seen(&[disk], &server);
                let decision = on_crash(&journal, &seen);
                let Some(goal) = crash_goal(&journal, &seen) else {
                    let expected = if journal.state.is_closed() { Decision::Done } else { Decision::Back(Step::Abandon) };
                    assert_eq!(decision, expected);
                    continue;
                };
                assert_eq!(decision, next_step(&journal, goal, &seen));
                if matches!(server, ServerSeen::Unknown(_)) {
                    assert!(matches!(decision, Decision::Ask(_)), "guessed whether the server runs");
                    continue;
                }
                if let Some(end) = follow(&journal, goal, &[disk], &server) {
                    assert_eq!(end[0][0], if goal == Goal::Old { OLD } else { NEW }, "{} on {disk:?}", journal.state.name());
                    assert_eq!(holdings(&end), holdings(&[disk]), "something was lost or made");
                }
            }
        }
    }
}

#[test]
fn two_directories_never_serve_as_a_mix() {
    let journal = journal(2, every_state(2).remove(4));
    for goal in [Goal::Old, Goal::New] {
        for a in every_disk() {
            for b in every_disk() {
                if let Some(end) = follow(&journal, goal, &[a, b], &ServerSeen::Stopped) {
                    let wanted = if goal == Goal::Old { OLD } else { NEW };
                    assert_eq!((end[0][0], end[1][0]), (wanted, wanted));
                    assert_eq!(holdings(&end), holdings(&[a, b]));
                }
            }
        }
    }
}

#[test]
fn no_crash_of_our_own_ever_needs_a_person() {
    // Every disk reachable from the start by steps either way, with a change of mind after any of them.
    let journal = journal(2, every_state(2).remove(4));
    let start = vec![[OLD, 0, NEW, 0]; 2];
    let mut reached = BTreeSet::from([start.clone()]);
    let mut open = VecDeque::from([start]);
    while let Some(disks) = open.pop_front() {
        for goal in [Goal::Old, Goal::New] {
            let decision = next_step(&journal, goal, &seen(&disks, &ServerSeen::Stopped));
            let step = step_of(&decision).unwrap_or_else(|| panic!("{disks:?} towards {goal:?}: {decision:?}"));
            let mut after = disks.clone();
            apply(step, &mut after, &mut ServerSeen::Stopped);
            if reached.insert(after.clone()) {
                open.push_back(after);
            }
        }
    }
    // Per slot: untouched, old aside, exchanged, new undone, undone and home; the pair never more than one rename apart.
    assert!(reached.len() >= 9, "{reached:?}");
}

#[test]
fn a_crash_is_undone_until_the_new_data_is_in_place_and_finished_from_then_on() {
    const UNTOUCHED: Disk = [OLD, 0, NEW, 0];
    const HALF: Disk = [0, OLD, NEW, 0];
    const EXCHANGED: Disk = [NEW, OLD, 0, 0];
    const UNDONE: Disk = [OLD, 0, 0, NEW];
    let (stopped, answering) = (ServerSeen::Stopped, ServerSeen::Answering);
    let aside_home = Step::Move { slot: 0, from: Place::Aside, to: Place::Live };
    let table: Vec<(&str, Disk, &ServerSeen, Decision)> = vec![
        ("staging", UNTOUCHED, &answering, Decision::Back(Step::Abandon)),
        ("smoking", UNTOUCHED, &answering, Decision::Back(Step::Abandon)),
        ("fencing", UNTOUCHED, &answering, Decision::Back(Step::Finish)),
        ("stopping", UNTOUCHED, &answering, Decision::Back(Step::Finish)),
        ("stopping", UNTOUCHED, &ServerSeen::Silent, Decision::Back(Step::Wait)),
        ("stopping", UNTOUCHED, &stopped, Decision::Back(Step::Start)),
        ("swapping", UNTOUCHED, &stopped, Decision::Back(Step::Start)),
        ("swapping", HALF, &stopped, Decision::Back(aside_home)),
        ("swapping", EXCHANGED, &stopped, Decision::Forward(Step::Start)),
        ("starting", EXCHANGED, &stopped, Decision::Forward(Step::Start)),
        ("starting", EXCHANGED, &ServerSeen::Silent, Decision::Forward(Step::Wait)),
        ("starting", EXCHANGED, &answering, Decision::Forward(Step::Finish)),
        ("starting", UNTOUCHED, &stopped, Decision::Back(Step::Start)),
        ("rolling-back", EXCHANGED, &answering, Decision::Back(Step::Stop)),
        ("rolling-back", EXCHANGED, &stopped, Decision::Back(Step::Move { slot: 0, from: Place::Live, to: Place::Undone })),
        ("rolling-back", [0, OLD, 0, NEW], &stopped, Decision::Back(aside_home)),
        ("rolling-back", UNDONE, &stopped, Decision::Back(Step::Start)),
        ("rolling-back", UNDONE, &answering, Decision::Back(Step::Finish)),
        ("reverting", EXCHANGED, &answering, Decision::Back(Step::Stop)),
        ("reverting", UNDONE, &answering, Decision::Back(Step::Finish)),
        ("reinstating", UNDONE, &stopped, Decision::Forward(Step::Move { slot: 0, from: Place::Live, to: Place::Aside })),
        ("reinstating", [0, OLD, 0, NEW], &stopped, Decision::Forward(Step::Move { slot: 0, from: Place::Undone, to: Place::Live })),
        ("done", EXCHANGED, &answering, Decision::Done),
        ("aborted", UNTOUCHED, &answering, Decision::Done),
        ("rolled-back", UNDONE, &answering, Decision::Done),
        ("reverted", UNDONE, &stopped, Decision::Done),
    ];
    let covered: BTreeSet<&str> = table.iter().map(|row| row.0).collect();
    assert_eq!(covered.len(), every_state(1).len(), "every state has a promise");
    for (name, disk, server, expected) in table {
        let state = every_state(1).into_iter().find(|s| s.name() == name).unwrap();
        assert_eq!(on_crash(&journal(1, state), &seen(&[disk], server)), expected, "{name} on {disk:?}");
    }
}

#[test]
fn something_foreign_in_place_is_left_to_a_person() {
    let swapping = journal(1, every_state(1).remove(4));
    for disk in [[OTHER, OLD, NEW, 0], [OTHER, 0, NEW, 0], [0, 0, NEW, 0], [0, OTHER, NEW, 0]] {
        assert!(matches!(on_crash(&swapping, &seen(&[disk], &ServerSeen::Stopped)), Decision::Ask(_)), "{disk:?}");
    }
}

#[test]
fn the_journal_round_trips_and_refuses_what_cannot_be() {
    for state in every_state(2) {
        let name = state.name();
        let written = journal(2, state);
        let bytes = written.to_bytes();
        assert_eq!(PromotionJournalV1::parse(&bytes).unwrap(), written, "{name}");
        assert!(String::from_utf8(bytes).unwrap().contains(&format!("\"name\": \"{name}\"")), "the stored name is the state's");
    }
    let mut bad = journal(1, State::Staging {});
    bad.slots[0].aside = bad.slots[0].live.clone();
    assert!(PromotionJournalV1::parse(&bad.to_bytes()).is_err());
    let bad = journal(1, every_state(2).remove(4));
    assert!(PromotionJournalV1::parse(&bad.to_bytes()).is_err());
    assert!("../x".parse::<PromotionId>().is_err());
}

#[test]
fn a_person_is_asked_when_a_directory_was_not_looked_at_or_is_at_two_places() {
    let journal =
        journal(2, State::Swapping { staged: staged(2), fence: Fence { was: ReadOnly::default(), last: None, at: Timestamp::UNIX_EPOCH } });
    let seen = |disk: Disk, slot| SlotSeen {
        live: mark(disk[0], slot),
        aside: mark(disk[1], slot),
        staged: mark(disk[2], slot),
        undone: mark(disk[3], slot),
    };
    let before = [OLD, 0, NEW, 0];
    let asked = |slots: Vec<SlotSeen>, goal, why: &str| match next_step(&journal, goal, &Observed { slots, server: ServerSeen::Stopped }) {
        Decision::Ask(reason) => assert!(reason.contains(why), "{why}: {reason}"),
        other => panic!("{why}: {other:?}"),
    };
    for goal in [Goal::Old, Goal::New] {
        asked(vec![seen(before, 0)], goal, "not every directory was looked at");
        asked(vec![seen(before, 0), seen([OLD, OLD, NEW, 0], 1)], goal, "at two places");
        asked(vec![seen(before, 0), seen([OLD, 0, NEW, NEW], 1)], goal, "at two places");
    }
}
