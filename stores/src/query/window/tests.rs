use super::*;

fn nanos(text: &str) -> Nanos {
    i64::try_from(text.parse::<Timestamp>().unwrap().as_nanosecond()).unwrap()
}

#[test]
fn a_day_on_which_clocks_change_is_shorter_or_longer() {
    let days = Window::calendar("P1D", "Europe/Berlin").unwrap();
    let hours = |at: &str| {
        let window = days.around(nanos(at)).unwrap();
        (window.end - window.start) / (3600 * model::time::SECOND)
    };
    assert_eq!(hours("2026-03-29T12:00:00Z"), 23);
    assert_eq!(hours("2026-10-25T12:00:00Z"), 25);
    assert_eq!(hours("2026-06-01T12:00:00Z"), 24);
}

#[test]
fn windows_hold_their_time_and_meet_without_a_gap() {
    let all = [
        Window::fixed(60 * model::time::SECOND, "Asia/Kolkata").unwrap(),
        Window::calendar("P1W", "UTC").unwrap(),
        Window::calendar("P3M", "America/New_York").unwrap(),
        Window::calendar("P1Y", "").unwrap(),
    ];
    for window in &all {
        let mut at = nanos("2015-02-03T04:05:06.7Z");
        for _ in 0..20 {
            let range = window.around(at).unwrap();
            assert!(range.contains(at), "{window:?} {at}");
            assert_eq!(window.around(range.end).unwrap().start, range.end);
            at = range.end;
        }
    }
    let week = all[1].around(nanos("2026-11-20T00:00:00Z")).unwrap();
    assert_eq!(week.start, nanos("2026-11-16T00:00:00Z"), "a Monday");
}

#[test]
fn a_text_that_is_not_a_period_is_refused() {
    for bad in ["", "P", "PT1H", "P1M2D", "P0D", "-P1D", "1d"] {
        assert!(Window::calendar(bad, "UTC").is_err(), "{bad}");
    }
    assert!(Window::calendar("P1D", "Mars/Phobos").is_err());
    assert!(Window::fixed(0, "UTC").is_err());
}

/// Zones whose clocks change at, before and after midnight, by half an hour, by two hours, by a
/// day, or that changed their standard.
const ZONES: [&str; 16] = [
    "Europe/Berlin",
    "Europe/Dublin",
    "America/New_York",
    "America/St_Johns",
    "America/Havana",
    "America/Sao_Paulo",
    "America/Caracas",
    "Africa/Cairo",
    "Africa/Casablanca",
    "Asia/Beirut",
    "Asia/Singapore",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Kwajalein",
    "Antarctica/Troll",
];
const MINUTE: Nanos = 60 * model::time::SECOND;
const HOUR: Nanos = 60 * MINUTE;

/// Every change of a zone's clocks between 1970 and 2037.
fn changes(zone: &TimeZone) -> Vec<Nanos> {
    let last = nanos("2037-12-31T00:00:00Z");
    let changes = zone.following(Timestamp::UNIX_EPOCH).map(|c| i64::try_from(c.timestamp().as_nanosecond()).unwrap());
    changes.take_while(|at| *at < last).collect()
}

fn shown(zone: &TimeZone, time: Nanos) -> Nanos {
    time + i64::from(zone.to_offset(Timestamp::from_nanosecond(time.into()).unwrap()).seconds()) * model::time::SECOND
}

#[test]
fn hourly_windows_begin_when_the_clocks_of_their_zone_show_a_full_hour() {
    for (zone, at, start) in [
        ("Asia/Singapore", "2026-11-28T12:40:00Z", "2026-11-28T12:00:00Z"),
        ("Asia/Singapore", "1975-06-01T12:40:00Z", "1975-06-01T12:30:00Z"),
        ("Asia/Kolkata", "2026-11-28T12:40:00Z", "2026-11-28T12:30:00Z"),
        ("Asia/Kathmandu", "2026-11-28T12:40:00Z", "2026-11-28T12:15:00Z"),
        ("America/Caracas", "2010-01-01T00:40:00Z", "2010-01-01T00:30:00Z"),
        ("America/Caracas", "2026-01-01T00:40:00Z", "2026-01-01T00:00:00Z"),
    ] {
        let window = Window::fixed(HOUR, zone).unwrap().around(nanos(at)).unwrap();
        assert_eq!((window.start, window.end - window.start), (nanos(start), HOUR), "{zone} {at}");
    }
}

#[test]
fn a_width_by_which_clocks_do_not_change_is_stretched_once_and_keeps_its_times_of_day() {
    let quarter = Window::fixed(6 * HOUR, "Europe/Berlin").unwrap();
    let around = |at: &str| quarter.around(nanos(at)).unwrap();
    for (at, start, hours) in [
        ("2026-01-01T12:00:00Z", "2026-01-01T11:00:00Z", 6),
        ("2026-07-01T12:00:00Z", "2026-07-01T10:00:00Z", 6),
        ("2026-03-29T02:00:00Z", "2026-03-28T23:00:00Z", 5),
        ("2026-10-25T00:30:00Z", "2026-10-24T22:00:00Z", 7),
        ("2026-10-25T04:30:00Z", "2026-10-24T22:00:00Z", 7),
    ] {
        let window = around(at);
        assert_eq!((window.start, window.end - window.start), (nanos(start), hours * HOUR), "{at}");
    }
    let hourly = Window::fixed(HOUR, "Europe/Berlin").unwrap();
    let mut at = nanos("2026-10-24T22:00:00Z");
    for _ in 0..25 {
        let window = hourly.around(at).unwrap();
        assert_eq!((window.start, window.end), (at, at + HOUR), "a day of 25 hours has 25 hourly windows");
        at = window.end;
    }
}

#[test]
fn windows_meet_at_every_change_of_clocks() {
    for name in ZONES {
        let zone = TimeZone::get(name).unwrap();
        let windows = [
            (15 * MINUTE, Window::fixed(15 * MINUTE, name).unwrap()),
            (HOUR, Window::fixed(HOUR, name).unwrap()),
            (2 * HOUR, Window::fixed(2 * HOUR, name).unwrap()),
            (6 * HOUR, Window::fixed(6 * HOUR, name).unwrap()),
            (24 * HOUR, Window::fixed(24 * HOUR, name).unwrap()),
            (36 * HOUR, Window::fixed(36 * HOUR, name).unwrap()),
            (24 * HOUR, Window::calendar("P1D", name).unwrap()),
            (72 * HOUR, Window::calendar("P3D", name).unwrap()),
            (168 * HOUR, Window::calendar("P1W", name).unwrap()),
        ];
        let changes = changes(&zone);
        for (change, before) in changes.iter().flat_map(|c| [-3 * HOUR, -1, 0, 30 * MINUTE, 5 * HOUR].map(|d| (c, d))) {
            for (width, window) in &windows {
                let (time, why) = (change + before, format!("{name} {window:?} {change} {before}"));
                let range = window.around(time).unwrap();
                assert!(range.contains(time), "{why}");
                assert_eq!(window.around(range.start), Some(range), "{why}");
                assert_eq!(window.around(range.end - 1), Some(range), "{why}");
                assert_eq!(window.around(range.end).unwrap().start, range.end, "{why}");
                let length = range.end - range.start;
                assert!(length == *width || changes.iter().any(|c| range.start <= *c && *c <= range.end), "{why}");
                let multiple = shown(&zone, range.start) % width == 0;
                let week = 168 * HOUR;
                assert!(multiple || *width == week || changes.contains(&range.start), "{why}: {}", range.start);
            }
        }
    }
}

#[test]
fn a_day_begins_when_clocks_first_show_it() {
    let day = |zone: &str, at: &str| Window::calendar("P1D", zone).unwrap().around(nanos(at)).unwrap();
    // Midnight did not exist: clocks went from 00:00 to 01:00.
    assert_eq!(day("America/Sao_Paulo", "2018-11-04T12:00:00Z").start, nanos("2018-11-04T03:00:00Z"));
    // Clocks went back from 00:01 to 23:01 of the day before.
    let began = nanos("2010-11-07T02:30:00Z");
    assert_eq!(day("America/St_Johns", "2010-11-07T02:45:00Z").start, began);
    assert_eq!(day("America/St_Johns", "2010-11-07T12:00:00Z").start, began);
    assert_eq!(day("America/St_Johns", "2010-11-06T12:00:00Z").end, began);
}
