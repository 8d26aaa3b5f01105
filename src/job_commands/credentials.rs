//! What commands that print credentials have in common: the executor masks them in the job's log before they are printed
//! (commands §11.10, step 3).

use crate::cli::{Failure, Invocation};
use crate::flags::process_env;
use crate::job_api::JobApi;

/// Words of the two commands.
pub(super) struct Wording {
    /// `automatic <this> redaction requires …`
    pub(super) kind: &'static str,
    /// `instead of outputting <this> …`
    pub(super) what: &'static str,
    /// `… because <it could | they could> leak`
    pub(super) pronoun: &'static str,
    /// `To output <this> anyway`
    pub(super) output: &'static str,
    /// Variable that turns redaction off.
    pub(super) variable: &'static str,
    /// Message when the executor refuses.
    pub(super) refused: &'static str,
}

/// Registers all `values` for redaction, unless `skip-redaction` is set. Nothing may be printed when it fails.
pub(super) fn redact<'a>(call: &Invocation, words: &Wording, values: impl Iterator<Item = &'a str>) -> Result<(), Failure> {
    if call.values.bool("skip-redaction") {
        return Ok(());
    }
    let api = JobApi::from_env(&process_env).map_err(|reason| {
        Failure::Fatal(format!(
            "automatic {} redaction requires the Job API, but the Job API client could not be created (error: {reason}). The command failed instead of outputting {} because {} could leak in logs without redaction. To output {} anyway, explicitly opt out of redaction with --skip-redaction or {}=true",
            words.kind, words.what, words.pronoun, words.output, words.variable
        ))
    })?;
    for value in values {
        api.redact(value)
            .map_err(|e| Failure::Fatal(if call.values.bool("debug") { format!("{}: {e}", words.refused) } else { words.refused.to_owned() }))?;
    }
    Ok(())
}
