//! `weir repair`: makes a damaged log usable again.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use buffer::embedded::RepairReport;

use crate::cli::{RepairOptions, configuration};
use crate::client::output::remark;
use crate::data_dir::{DataDir, lanes_in, log_in, spill_in};

/// Reports what a repair of the logs in the data folder would change; with `--yes`, makes the
/// changes.
///
/// # Errors
/// When there is no log, another process uses it, or it cannot be written.
pub(crate) fn run(options: &RepairOptions) -> anyhow::Result<ExitCode> {
    let config = configuration(options.config.as_deref(), options.data_dir.as_deref())?;
    let dirs = lanes_in(&config.data_dir).into_iter().flat_map(|lane| [log_in(&lane), spill_in(&lane)]);
    let dirs: Vec<PathBuf> = dirs.filter(|dir| dir.is_dir()).collect();
    anyhow::ensure!(
        !dirs.is_empty(),
        "there is no log in {}: use the --data-dir of the log",
        config.data_dir.display()
    );
    let _data = DataDir::open(&config.data_dir)?;
    let mut damaged = false;
    for dir in &dirs {
        let failed = || format!("repair {}", dir.display());
        // An unfinished append at the end is no damage: the next start cuts it.
        let damage = match buffer::embedded::verify(dir) {
            Ok(end) => {
                remark(&format!("{} is undamaged up to record {end}: nothing was changed.", dir.display()));
                continue;
            }
            Err(damage) => damage,
        };
        damaged = true;
        remark(&format!("{damage}."));
        if options.yes {
            done(dir, &buffer::embedded::repair(dir).with_context(failed)?);
        } else {
            planned(dir, &buffer::embedded::preview(dir).with_context(failed)?);
        }
    }
    if damaged && !options.yes {
        remark(&format!(
            "Nothing was changed. Copy {} first, then run this with --yes. The bytes that are cut are kept in files beside the log.",
            config.data_dir.display()
        ));
    }
    Ok(if options.yes { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

/// Reports the changes of a repair that was not made.
fn planned(dir: &Path, report: &RepairReport) {
    remark(&format!("A repair of {} would end the log at record {}:", dir.display(), report.end));
    for place in &report.places {
        remark(&format!("  cut {} bytes from byte {} of {}", place.bytes, place.offset, place.file.display()));
    }
    remark(&format!("  complete records after the damage that are cut: {}", report.cut_records));
    if let Some(lost) = &report.lost {
        remark(&format!(
            "  acknowledged records that the log loses: {} ({}..{}); those that a store has stay there",
            lost.end - lost.start,
            lost.start,
            lost.end
        ));
    }
    if !report.cursors_set_back.is_empty() {
        let sinks = report.cursors_set_back.join(", ");
        remark(&format!("  sinks that had passed the new end, whose stores keep what they have: {sinks}"));
    }
    if report.cursors_reset {
        remark(&format!("  set aside {}: the stores are written again", dir.join("cursors").display()));
    }
}

/// Reports the changes of a repair.
fn done(dir: &Path, report: &RepairReport) {
    remark(&format!(
        "The log in {} now ends at record {}. {} complete records after the damage were cut.",
        dir.display(),
        report.end,
        report.cut_records
    ));
    let kept: Vec<String> = report.kept.iter().map(|path| path.display().to_string()).collect();
    if !kept.is_empty() {
        remark(&format!("The bytes cut off are in {}.", kept.join(", ")));
    }
    if let Some(lost) = &report.lost {
        remark(&format!(
            "Acknowledged records {}..{} are no longer in the log: they are lost, unless a store has them.",
            lost.start, lost.end
        ));
    }
    if let Some(id) = &report.new_id {
        remark(&format!("The log has the new id {id}, so that new records are not mistaken for the lost ones."));
    }
    if !report.cursors_set_back.is_empty() {
        remark(&format!(
            "Sinks that had passed the new end were set back to it: {}. Their stores keep what they have.",
            report.cursors_set_back.join(", ")
        ));
    }
    if report.cursors_reset {
        remark(
            "The file of the cursors was damaged: the stores are written again, and readings that they hold twice are \
             merged when they are read. `weir books --check` counts them twice.",
        );
    }
}
