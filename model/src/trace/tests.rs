use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[derive(Debug, Default)]
struct Count(AtomicU64);

impl Recorder for Count {
    fn record(&self, _: Span) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn lost(&self, _: Lost, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }
}

fn sampler(sampling: Sampling) -> Sampler {
    Tracer::new(Arc::new(Count::default()), sampling).sampler("default")
}

fn set(names: &[&str]) -> HashSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn a_traceparent_is_read_and_written_again() {
    let context = TraceContext::from_traceparent(PARENT).unwrap();
    assert_eq!(context.span_id, [0, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7]);
    assert!(context.is_sampled());
    assert_eq!(context.to_string(), PARENT);
    assert_eq!(context.trace().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(TraceContext::from_bytes(&context.to_bytes()), context);
    let unsampled = TraceContext::from_traceparent(&PARENT.replace("-01", "-00")).unwrap();
    assert!(!unsampled.is_sampled());
    let later = PARENT.replacen("00-", "cc-", 1);
    assert_eq!(TraceContext::from_traceparent(&later), Some(context), "a later version");
    assert_eq!(TraceContext::from_traceparent(&format!("{later}-more")), Some(context));
}

#[test]
fn what_is_no_traceparent_is_none() {
    for bad in [
        "",
        "00",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-011",
        "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.more",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e473ä-00f067aa0ba902b7-01",
    ] {
        assert_eq!(TraceContext::from_traceparent(bad), None, "{bad}");
    }
}

#[test]
fn an_uber_trace_id_is_read_short_and_padded_and_with_coded_colons() {
    let short = TraceContext::from_uber_trace_id("6b221d5bc9e6496c:5fc5e6b:0:1").unwrap();
    assert_eq!(short.trace().to_string(), "00000000000000006b221d5bc9e6496c");
    assert_eq!(short.span_id, 0x5fc_5e6b_u64.to_be_bytes());
    assert!(short.is_sampled());
    let padded = "00000000000000006b221d5bc9e6496c:0000000005fc5e6b:0000000000000000:01";
    assert_eq!(TraceContext::from_uber_trace_id(padded), Some(short));
    assert_eq!(TraceContext::from_uber_trace_id(&padded.replace(':', "%3A")), Some(short));
    assert_eq!(TraceContext::from_uber_trace_id("6B221D5BC9E6496C%3a5FC5E6B%3a0%3a1"), Some(short));
    let flags = |flags: &str| TraceContext::from_uber_trace_id(&format!("1:1:0:{flags}")).map(|c| c.flags);
    assert_eq!(["0", "1", "2", "3", "08"].map(flags), [Some(0), Some(1), Some(1), Some(1), Some(0)], "2 is debug");
    for bad in [
        "",
        ":::",
        "1:1:0",
        "1:1:0:1:1",
        "1:1:0:",
        "0:1:0:1",
        "1:0:0:1",
        "1:1:0:x",
        "1:1:0:001",
        "1%3B1%3B0%3B1",
        "1:1:0:1%",
    ] {
        assert_eq!(TraceContext::from_uber_trace_id(bad), None, "{bad}");
    }
    assert_eq!(TraceContext::from_uber_trace_id(&format!("{}:1:0:1", "1".repeat(33))), None, "too long");
}

#[test]
fn whatever_the_text_reading_it_ends_and_what_is_read_is_what_was_written() {
    let mut dice = 88_172_645_463_325_252_u64;
    let mut draw = |below: usize| {
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        usize::try_from(dice >> 11).unwrap() % below
    };
    let alphabet: Vec<char> = "0123456789abcdefABF-:%3ä\u{0}".chars().collect();
    let starts = [PARENT, "00000000000000006b221d5bc9e6496c:0000000005fc5e6b:0:1", "1%3A2%3A0%3A1", ""];
    for _ in 0..200_000 {
        let mut text: Vec<char> = starts[draw(starts.len())].chars().collect();
        for _ in 0..draw(4) {
            let (at, letter) = (draw(text.len() + 1), alphabet[draw(alphabet.len())]);
            match draw(3) {
                0 => text.insert(at, letter),
                1 if at < text.len() => text[at] = letter,
                _ => text.truncate(at.max(1)),
            }
        }
        let text: String = text.into_iter().collect();
        for carried in [Carried::Traceparent(&text), Carried::UberTraceId(&text)] {
            let Some(context) = carried.read() else { continue };
            assert_eq!(TraceContext::from_traceparent(&context.to_string()), Some(context), "{text}");
            assert!(!(context.is_sampled() && carried.is_plainly_unsampled()), "{text}");
        }
    }
}

#[test]
fn traceparent_goes_before_uber_trace_id_wherever_it_stands() {
    let (w3c, jaeger) = (("TraceParent", PARENT), ("uber-trace-id", "1:1:0:1"));
    assert_eq!(Carried::find([jaeger, w3c]), Some(Carried::Traceparent(PARENT)));
    assert_eq!(Carried::find([("x", "y"), jaeger]), Some(Carried::UberTraceId("1:1:0:1")));
    assert_eq!(Carried::find([("x", "y")]), None);
}

#[test]
fn the_parent_of_a_trusted_sender_decides_and_what_is_listed_is_always_sampled() {
    let unsampled = PARENT.replace("-01", "-00");
    let mut all = sampler(Sampling { ratio: 1.0, ..Sampling::default() });
    let (context, parent) = all.sample(Some(Carried::Traceparent(PARENT)), None).unwrap();
    let sent = TraceContext::from_traceparent(PARENT).unwrap();
    assert_eq!((context.trace_id, parent), (sent.trace_id, Some(sent.span_id)));
    assert_ne!(context.span_id, sent.span_id);
    assert_eq!(all.sample(Some(Carried::Traceparent(&unsampled)), None), None);
    assert!(all.sample(Some(Carried::Traceparent("garbage")), None).unwrap().1.is_none(), "as if there were none");

    let mut none = sampler(Sampling { by_senders: true, ..Sampling::default() });
    assert!(none.sample(None, Some("d1")).is_none());
    assert!(none.sample(Some(Carried::Traceparent(PARENT)), Some("d1")).is_some());

    let mut device = sampler(Sampling { devices: set(&["d1"]), ..Sampling::default() });
    assert!(device.sample(None, Some("d2")).is_none());
    assert!(device.sample(None, Some("d1")).is_some());
    let (context, _) = device.sample(Some(Carried::Traceparent(&unsampled)), Some("d1")).unwrap();
    assert!(context.is_sampled() && context.trace_id == sent.trace_id);

    assert!(sampler(Sampling { tenants: set(&["default"]), ..Sampling::default() }).sample(None, None).is_some());
    assert!(sampler(Sampling { tenants: set(&["other"]), ..Sampling::default() }).sample(None, None).is_none());
}

#[test]
fn a_sender_that_is_not_trusted_gets_the_share_of_all_others() {
    assert!(sampler(Sampling::default()).sample(Some(Carried::Traceparent(PARENT)), Some("d1")).is_none());
    let mut one_in_hundred = sampler(Sampling { ratio: 0.01, ..Sampling::default() });
    let sample = |_: &u32| one_in_hundred.sample(Some(Carried::Traceparent(PARENT)), None).is_some();
    let sampled = (0..100_000).filter(sample).count();
    // The expected value is 1,000, the standard deviation 31.
    assert!((800..1_200).contains(&sampled), "{sampled}");
}

#[test]
fn a_ratio_samples_its_share() {
    let mut one_in_hundred = sampler(Sampling { ratio: 0.01, ..Sampling::default() });
    let sampled = (0..1_000_000).filter(|_| one_in_hundred.sample(None, None).is_some()).count();
    // The expected value is 10,000, the standard deviation 100.
    assert!((9_400..10_600).contains(&sampled), "{sampled}");
}

#[test]
fn ids_are_never_zero_nor_drawn_twice() {
    let tracer = Tracer::new(Arc::new(Count::default()), Sampling::default());
    let other = Tracer::new(Arc::new(Count::default()), Sampling::default());
    let contexts: Vec<_> = (0..50_000).flat_map(|_| [tracer.root(), other.root()]).collect();
    let traces: HashSet<_> = contexts.iter().map(|c| c.trace_id).collect();
    let spans: HashSet<_> = contexts.iter().map(|c| c.span_id).collect();
    assert_eq!((traces.len(), spans.len()), (contexts.len(), contexts.len()));
    assert!(!traces.contains(&[0; 16]) && !spans.contains(&[0; 8]));
}
