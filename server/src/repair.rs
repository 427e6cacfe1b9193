//! `weir repair`: makes a damaged log usable again.

use std::process::ExitCode;

use anyhow::Context;

use crate::cli::{RepairOptions, RunOptions};
use crate::client::output::remark;
use crate::config;
use crate::data_dir::{DataDir, log_in};

/// Cuts the log at its first damage, if `--yes` is given.
///
/// # Errors
/// When there is no log, another process uses it, or it cannot be written.
pub(crate) fn run(options: &RepairOptions) -> anyhow::Result<ExitCode> {
    let sources =
        RunOptions { config: options.config.clone(), data_dir: options.data_dir.clone(), ..RunOptions::default() };
    let config = config::load(&sources.sources()?)?.config;
    let dir = log_in(&config.data_dir);
    anyhow::ensure!(dir.is_dir(), "there is no log in {}: use the --data-dir of the log", config.data_dir.display());
    if !options.yes {
        remark(&format!(
            "This cuts the log in {} at its first damage: acknowledged readings after it are lost, unless a store has them. \
             The bytes cut off are kept in files beside the log. Copy the folder first, then run this with --yes.",
            dir.display()
        ));
        return Ok(ExitCode::from(2));
    }
    let data = DataDir::open(&config.data_dir)?;
    let report = buffer::embedded::repair(&data.log()).with_context(|| format!("repair {}", dir.display()))?;
    if report.kept.is_empty() && report.lost.is_none() {
        remark("The log is undamaged: nothing was changed.");
        return Ok(ExitCode::SUCCESS);
    }
    let kept: Vec<String> = report.kept.iter().map(|path| path.display().to_string()).collect();
    remark(&format!(
        "The log now ends at offset {}. {} complete records after the damage were cut; the bytes cut off are in {}.",
        report.end,
        report.cut_records,
        kept.join(", ")
    ));
    if let Some(lost) = &report.lost {
        remark(&format!(
            "Acknowledged records {}..{} are no longer in the log: they are lost, unless a store has them.",
            lost.start, lost.end
        ));
    }
    if let Some(id) = &report.new_id {
        remark(&format!("The log has the new id {id}, so that new records are not mistaken for the lost ones."));
    }
    if report.cursors_reset {
        remark(
            "The cursors of the sinks were beyond the end of the log: they were reset, and the stores are written again.",
        );
    }
    Ok(ExitCode::SUCCESS)
}
