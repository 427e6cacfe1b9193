//! Figures of the process, from the operating system.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

type FloatGauge = Gauge<f64, AtomicU64>;

/// Figures of the process, as Prometheus' own clients name them.
#[derive(Debug)]
pub(super) struct Process {
    memory: Gauge,
    open_files: Gauge,
    most_files: Gauge,
    threads: Gauge,
    cpu: Counter<f64, AtomicU64>,
    uptime: FloatGauge,
}

impl Process {
    /// Puts them into a registry.
    pub(super) fn new(registry: &mut Registry) -> Self {
        let process = Self {
            memory: Gauge::default(),
            open_files: Gauge::default(),
            most_files: Gauge::default(),
            threads: Gauge::default(),
            cpu: Counter::default(),
            uptime: FloatGauge::default(),
        };
        let r = registry.sub_registry_with_prefix("process");
        r.register_with_unit("resident_memory", "Resident memory", Unit::Bytes, process.memory.clone());
        r.register("open_fds", "Open file descriptors", process.open_files.clone());
        r.register("max_fds", "Most file descriptors", process.most_files.clone());
        r.register("threads", "Threads", process.threads.clone());
        r.register_with_unit("cpu", "Processor time, user and system", Unit::Seconds, process.cpu.clone());
        let r = registry.sub_registry_with_prefix("weir");
        r.register_with_unit("uptime", "Time since the start", Unit::Seconds, process.uptime.clone());
        r.register("build", "Version that runs", Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]));
        process
    }

    /// Reads the figures again. Those that the system does not provide stay as they were.
    pub(super) fn update(&mut self, uptime: Duration) {
        self.uptime.set(uptime.as_secs_f64());
        if let Some(pages) = std::fs::read_to_string("/proc/self/statm").ok().and_then(|text| number(&text, 1)) {
            self.memory.set(pages.saturating_mul(i64::try_from(page_size()).unwrap_or(4096)));
        }
        if let Ok(stat) = std::fs::read_to_string("/proc/self/stat") {
            self.update_stat(&stat);
        }
        if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
            // The folder that is being read is one of them.
            self.open_files.set(i64::try_from(entries.count().saturating_sub(1)).unwrap_or(0));
        }
        let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        self.most_files.set(i64::try_from(most).unwrap_or(i64::MAX));
    }

    fn update_stat(&mut self, stat: &str) {
        // The name in parentheses may contain blanks; the figures follow it: fields 14, 15 and 20
        // of proc(5).
        let Some((_, rest)) = stat.rsplit_once(')') else { return };
        if let Some(threads) = number(rest, 17) {
            self.threads.set(threads);
        }
        let (Some(user), Some(system)) = (number(rest, 11), number(rest, 12)) else { return };
        #[expect(clippy::cast_precision_loss, reason = "seconds with two decimals")]
        let seconds = (user + system) as f64 / clock_ticks_per_second() as f64;
        self.cpu.inc_by((seconds - self.cpu.get()).max(0.0));
    }
}

fn number(text: &str, place: usize) -> Option<i64> {
    text.split_whitespace().nth(place)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_sees_its_own_figures() {
        let mut registry = Registry::default();
        let mut process = Process::new(&mut registry);
        process.update(Duration::from_secs(1));
        assert!(process.memory.get() > 100_000);
        assert!(process.open_files.get() >= 3);
        assert!(process.threads.get() >= 1);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for name in [
            "process_resident_memory_bytes ",
            "process_cpu_seconds_total ",
            "process_open_fds ",
            "weir_build_info{version=",
        ] {
            assert!(text.contains(name), "{name} in {text}");
        }
    }
}
