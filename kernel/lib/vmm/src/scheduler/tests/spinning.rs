//! Those that spin, and those for whom they give way.

use super::*;

fn vm() -> Arc<Account> {
    Arc::new(Account::new(Weight::DEFAULT))
}

#[test]
fn who_spins_lets_the_one_go_first_that_works() {
    let vm = vm();
    let mut queue = RunQueue::new(Use::Shared);
    let nobody = |_: &i32| false;
    for number in 0..5 {
        let its_share = if number % 3 == 0 {
            sibling(&vm)
        } else {
            share(256)
        };
        let _ = queue.enqueue(number, its_share, Arrival::New, 0);
    }
    let turn = queue.choose(0).unwrap();
    assert_eq!(turn.vcpu, 0);
    let (spinner, its_share) = queue.end_turn(turn, 1000);
    // Its sibling gets what is left of the turn, and no more.
    queue.give_way(spinner, its_share, MS / 2, nobody);
    let turn = queue.choose(1000).unwrap();
    assert_eq!((turn.vcpu, turn.slice), (3, Slice::Ns(MS / 2)));
    let (other, other_share) = queue.end_turn(turn, MS);
    let _ = queue.enqueue(other, other_share, Arrival::Again, MS);
    // Nobody else is passed over, and the spinner comes last.
    let mut order = Vec::new();
    while let Some(turn) = queue.choose(MS) {
        order.push(turn.vcpu);
    }
    assert_eq!(order, [1, 2, 4, 3, 0]);
}

#[test]
fn who_has_been_sent_something_goes_before_one_that_only_works() {
    let vm = vm();
    let mut queue = RunQueue::new(Use::Shared);
    for number in 0..4 {
        let _ = queue.enqueue(number, sibling(&vm), Arrival::New, 0);
    }
    let turn = queue.choose(0).unwrap();
    let (spinner, its_share) = queue.end_turn(turn, 1000);
    queue.give_way(spinner, its_share, MS, |number| *number == 3);
    let turn = queue.choose(1000).unwrap();
    assert_eq!(turn.vcpu, 3);
    // It spins, too, and is called once more.
    let (other, other_share) = queue.end_turn(turn, 2000);
    queue.give_way(other, other_share, MS, |_| false);
    let turn = queue.choose(2000).unwrap();
    assert_eq!(turn.vcpu, 1, "neither of those that spin");
    let (third, third_share) = queue.end_turn(turn, 3000);
    queue.give_way(third, third_share, MS, |number| *number == 3);
    assert_eq!(queue.choose(3000).unwrap().vcpu, 3);
}

#[test]
fn a_sibling_on_another_cpu_is_taken_from_there_unless_it_spins() {
    let vm = vm();
    let mut there = RunQueue::new(Use::Shared);
    let nobody = |_: &i32| false;
    for (number, its_share) in [(1, share(256)), (2, sibling(&vm)), (3, sibling(&vm))] {
        let _ = there.enqueue(number, its_share, Arrival::New, 0);
    }
    // The first sibling there spins, and gives way to the other.
    let turn = there.choose(0).unwrap();
    let _ = there.end_turn(turn, 0);
    let turn = there.choose(0).unwrap();
    let (spinner, its_share) = there.end_turn(turn, 1000);
    there.give_way(spinner, its_share, MS, nobody);
    let mut elsewhere = RunQueue::new(Use::Shared);
    let _ = elsewhere.enqueue(4, sibling(&vm), Arrival::New, 0);
    let _ = elsewhere.enqueue(5, share(256), Arrival::New, 0);
    let turn = elsewhere.choose(0).unwrap();
    let (other, other_share) = elsewhere.end_turn(turn, MS);
    let _ = elsewhere.enqueue(other, other_share, Arrival::Again, MS);
    let turn = elsewhere.choose(MS).unwrap();
    assert_eq!(turn.vcpu, 4);
    let (_, mut here) = elsewhere.end_turn(turn, 2 * MS);
    assert!(there.steal_helper(&here, nobody, |_| false).is_none());
    let (taken, _) = there.steal_helper(&here, nobody, |_| true).unwrap();
    assert_eq!(taken, 3);
    assert!(there.steal_helper(&here, nobody, |_| true).is_none());
    assert!(!there.has_helper(&here, nobody) && there.has_helper(&here, |_| true));
    // One that is called and cannot leave gets the time of the one that waits for it.
    let time = here.virtual_time();
    there.lend_to_one(&mut here, |_| true);
    assert_eq!(here.virtual_time(), time, "that was later than its own");
}

#[test]
fn who_spins_is_tried_again_though_its_sibling_always_works() {
    for others in 0..3 {
        let vm = vm();
        let mut queue = RunQueue::new(Use::Shared);
        let _ = queue.enqueue('s', sibling(&vm), Arrival::New, 0);
        let _ = queue.enqueue('w', sibling(&vm), Arrival::New, 0);
        for _ in 0..others {
            let _ = queue.enqueue('h', share(256), Arrival::New, 0);
        }
        let (mut now_ns, mut tried_ns) = (0, 0);
        while now_ns < 5 * SECOND {
            let turn = queue.choose(now_ns).unwrap();
            let Slice::Ns(slice_ns) = turn.slice else {
                panic!("nobody owns the CPU")
            };
            if turn.vcpu == 's' {
                assert!(now_ns - tried_ns < 60 * MS, "{} ns", now_ns - tried_ns);
                tried_ns = now_ns;
                now_ns += 20_000;
                let (vcpu, its_share) = queue.end_turn(turn, now_ns);
                queue.give_way(vcpu, its_share, slice_ns, |_| false);
            } else {
                now_ns += slice_ns;
                let (vcpu, its_share) = queue.end_turn(turn, now_ns);
                let _ = queue.enqueue(vcpu, its_share, Arrival::Again, now_ns);
            }
        }
        assert!(now_ns - tried_ns < 60 * MS, "{} ns", now_ns - tried_ns);
    }
}

#[test]
fn who_gives_way_all_the_time_saves_nothing_up() {
    let mut queue = RunQueue::new(Use::Shared);
    let _ = queue.enqueue('s', share(256), Arrival::New, 0);
    let _ = queue.enqueue('h', share(256), Arrival::New, 0);
    let mut now_ns = 0;
    // For ten seconds one of them does nothing but spin.
    while now_ns < 10 * SECOND {
        let turn = queue.choose(now_ns).unwrap();
        let Slice::Ns(slice_ns) = turn.slice else {
            panic!("nobody owns the CPU")
        };
        if turn.vcpu == 's' {
            now_ns += 10_000;
            let (vcpu, its_share) = queue.end_turn(turn, now_ns);
            queue.give_way(vcpu, its_share, slice_ns, |_| false);
        } else {
            now_ns += slice_ns;
            let (vcpu, its_share) = queue.end_turn(turn, now_ns);
            let _ = queue.enqueue(vcpu, its_share, Arrival::Again, now_ns);
        }
    }
    let (began_ns, mut hog_ns) = (now_ns, 0);
    while now_ns < began_ns + SECOND {
        let turn = queue.choose(now_ns).unwrap();
        let Slice::Ns(slice_ns) = turn.slice else {
            panic!("nobody owns the CPU")
        };
        now_ns += slice_ns;
        if turn.vcpu == 'h' {
            hog_ns += slice_ns;
        }
        let (vcpu, its_share) = queue.end_turn(turn, now_ns);
        let _ = queue.enqueue(vcpu, its_share, Arrival::Again, now_ns);
    }
    assert!(hog_ns > 450 * MS, "the other got {hog_ns} ns of a second");
}
