//! The division of a rate among the processes of a fleet, after the idea of flow proportional share
//! (Raghavan et al., "Cloud Control with Distributed Rate Limiting", SIGCOMM 2007).
//!
//! Each process computes its own part from what all have told, so none decides for the others.
//!
//! - A process where nothing waits gets what it uses and a little more, and an equal part of what
//!   is left. While others wait it gets no more than an equal part.
//! - Processes where units wait divide the rest in proportion to them. A connection waits with one
//!   message, so that connections have the same rate, wherever they are.
//! - A process has at least [`FLOOR`] of an equal part, so that a tenant that is idle there begins
//!   at once. Floors that are not used are beyond the limit; the sum of all parts is at most 1 +
//!   `FLOOR` times the limit, that of use is the limit.

/// The least part of a process, as a fraction of an equal part.
pub(super) const FLOOR: f64 = 0.1;
/// The part of a process where nothing waits, as a multiple of its use.
const HEADROOM: f64 = 1.1;

/// The demand of a tenant at a process, in units of a rate.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Demand {
    /// Units in a second that are used.
    pub(super) used: f64,
    /// Units that wait.
    pub(super) waiting: f64,
    /// The used part of its burst, between 0 and 1.
    pub(super) used_burst: f64,
    /// The part of the limit that the process has, between 0 and 1.
    pub(super) part: f64,
}

/// Returns the part of a limit, between 0 and 1, for a process with its `own` demand, beside
/// `others`, of `processes` with it: those that are not among the others ask for nothing.
pub(super) fn fraction(limit: u64, own: Demand, others: &[Demand], processes: usize) -> f64 {
    let processes = processes.max(others.len() + 1) as f64;
    let limit = (limit as f64).max(1.0);
    let equal = 1.0 / processes;
    let floor = FLOOR * equal;
    let need = |demand: &Demand| demand.used * HEADROOM / limit;
    let all = || others.iter().chain([&own]);
    let (mut calm, mut waiting, mut floors) = (0.0, 0.0, 0.0);
    for demand in all() {
        waiting += demand.waiting;
        match demand.waiting > 0.0 {
            true => floors += floor,
            false => calm += need(demand),
        }
    }
    if waiting > 0.0 {
        let calm: f64 = all().filter(|demand| demand.waiting <= 0.0).map(|demand| need(demand).min(equal)).sum();
        let rest = (1.0 - calm - floors).max(0.0);
        return match own.waiting > 0.0 {
            true => floor + rest * own.waiting / waiting,
            false => need(&own).clamp(floor, equal),
        };
    }
    let part = if calm <= 1.0 { need(&own) + (1.0 - calm) * equal } else { need(&own) / calm };
    part.max(floor)
}

/// Returns the largest part of a process beside the parts that others have: its own grows when
/// theirs have become smaller, and not before.
pub(super) fn room(others: &[Demand], processes: usize) -> f64 {
    let taken: f64 = others.iter().map(|demand| demand.part).sum();
    (1.0 + FLOOR - taken).max(FLOOR / processes as f64)
}

/// Returns the next part on the way from one to another: half of the way, so that measurements that
/// vary from second to second do not make parts swing, and at once to one that is much smaller. It
/// grows to no more than `room`.
pub(super) fn approach(from: f64, to: f64, room: f64) -> f64 {
    let to = to.min(room.max(from));
    let is_near = (from - to).abs() < 0.01 * from;
    if is_near || to < 0.5 * from { to } else { f64::midpoint(from, to) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(used: f64, waiting: f64) -> Demand {
        Demand { used, waiting, ..Demand::default() }
    }

    /// The parts of all, in percent of the limit of 1,000.
    fn parts<const N: usize>(all: [Demand; N]) -> [f64; N] {
        std::array::from_fn(|own| {
            let others: Vec<_> = (0..N).filter(|other| *other != own).map(|other| all[other]).collect();
            (fraction(1000, all[own], &others, N) * 1000.0).round() / 10.0
        })
    }

    #[test]
    fn a_process_alone_has_the_whole_limit_for_any_demand() {
        for own in [of(0.0, 0.0), of(500.0, 0.0), of(1000.0, 0.0), of(5000.0, 0.0), of(0.0, 1.0), of(900.0, 1e9)] {
            assert_eq!(parts([own]), [100.0], "{own:?}");
        }
    }

    #[test]
    fn what_is_not_used_is_divided_equally() {
        assert_eq!(parts([of(0.0, 0.0); 4]), [25.0; 4]);
        assert_eq!(parts([of(100.0, 0.0), of(0.0, 0.0)]), [55.5, 44.5]);
    }

    #[test]
    fn those_that_wait_divide_the_rest_by_their_connections() {
        assert_eq!(parts([of(500.0, 90.0), of(500.0, 10.0)]), [86.0, 14.0]);
        assert_eq!(parts([of(900.0, 10.0), of(0.0, 0.0), of(0.0, 0.0)]), [100.0, 3.3, 3.3]);
        assert_eq!(parts([of(500.0, 10.0), of(100.0, 0.0)]), [89.0, 11.0]);
        assert_eq!(parts([of(200.0, 10.0), of(800.0, 0.0)]), [50.0, 50.0], "no more than an equal part");
    }

    #[test]
    fn a_part_grows_when_those_of_others_have_become_smaller() {
        let has = |part: f64| Demand { part, ..Demand::default() };
        assert!((room(&[has(0.5), has(0.2)], 3) - 0.4).abs() < 1e-9);
        assert_eq!((room(&[has(1.0), has(0.5)], 4), room(&[], 1)), (FLOOR / 4.0, 1.0 + FLOOR));
        let steps = [(0.2, 1.0, 0.4, 0.3), (0.4, 1.0, 0.1, 0.4), (0.4, 0.3, 0.1, 0.35), (0.4, 0.1, 1.0, 0.1)];
        for (from, to, room, next) in steps {
            assert!((approach(from, to, room) - next).abs() < 1e-9, "{from} {to} {room}");
        }
    }

    #[test]
    fn the_sum_of_parts_exceeds_the_limit_by_no_more_than_floors_that_are_not_used() {
        let demands = [0.0, 1.0, 30.0, 400.0, 990.0, 5000.0]
            .map(|used| [of(used, 0.0), of(used, 1.0), of(used, 70.0), of(used, 1e6)]);
        let demands = demands.as_flattened();
        for a in demands {
            for b in demands {
                for c in demands {
                    let sum: f64 = parts([*a, *b, *c]).iter().sum();
                    assert!(
                        (99.8..=100.2 + FLOOR * 100.0).contains(&sum)
                            || a.waiting + b.waiting + c.waiting == 0.0
                            || sum <= 110.2,
                        "{a:?} {b:?} {c:?}: {sum}"
                    );
                    let least = parts([*a, *b, *c]).into_iter().fold(f64::MAX, f64::min);
                    assert!(least >= 3.3, "{a:?} {b:?} {c:?}: {least}");
                }
            }
        }
    }
}
