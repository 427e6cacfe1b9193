//! `weir repair`: makes a damaged log start again.

use std::process::ExitCode;

use anyhow::Context;

use crate::cli::{RepairOptions, RunOptions};
use crate::client::output::remark;
use crate::config;
use crate::data_dir::{DataDir, log_in};

/// Cuts the log at its first damage, if told so twice.
///
/// # Errors
/// When there is no log, another process has it, or the system refuses.
pub(crate) fn run(options: &RepairOptions) -> anyhow::Result<ExitCode> {
    let sources =
        RunOptions { config: options.config.clone(), data_dir: options.data_dir.clone(), ..RunOptions::default() };
    let config = config::load(&sources.sources()?)?.config;
    let dir = log_in(&config.data_dir);
    anyhow::ensure!(dir.is_dir(), "there is no log in {}: name the right --data-dir", config.data_dir.display());
    if !options.yes {
        remark(&format!(
            "This cuts the log in {} at its first damage: acknowledged readings behind that place are lost, unless a store \
             has them. What is cut is kept in files beside the log. Copy the folder first, then run this with --yes.",
            dir.display()
        ));
        return Ok(ExitCode::from(2));
    }
    let data = DataDir::open(&config.data_dir)?;
    let report = buffer::embedded::repair(&data.log()).with_context(|| format!("repair {}", dir.display()))?;
    if report.kept.is_empty() && report.lost.is_none() {
        remark("The log is whole: nothing was changed.");
        return Ok(ExitCode::SUCCESS);
    }
    let kept: Vec<String> = report.kept.iter().map(|path| path.display().to_string()).collect();
    remark(&format!(
        "The log now ends at offset {}. {} whole records behind the damage were cut; what was cut is in {}.",
        report.end,
        report.cut_records,
        kept.join(", ")
    ));
    if let Some(lost) = &report.lost {
        remark(&format!(
            "Acknowledged records {}..{} are gone from the log: unless a store has them, they are lost.",
            lost.start, lost.end
        ));
    }
    if let Some(id) = &report.new_id {
        remark(&format!("The log has the new id {id}, so that what comes now is not taken for what is gone."));
    }
    if report.cursors_reset {
        remark("The sinks' cursors said more than the log has: they are set aside, and the stores are written again.");
    }
    Ok(ExitCode::SUCCESS)
}
