/// Why a document cannot be run, and where: file, line and column, step, field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanError {
    /// Base name of the source.
    pub source_name: std::sync::Arc<str>,
    /// Line and column from 1; 0: unknown.
    pub at: (u32, u32),
    /// Number of the step from 1, and what it is called.
    pub step: Option<(usize, String)>,
    /// The field, or a path to it.
    pub field: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub help: Option<&'static str>,
}

impl std::error::Error for PlanError {}

impl std::fmt::Display for PlanError {
    /// `pipeline.yml:4:5: step 2 (build), matrix: …`, and the remedy on a line of its own.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.source_name)?;
        if self.at.0 > 0 {
            write!(f, ":{}:{}", self.at.0, self.at.1)?;
        }
        write!(f, ": ")?;
        if let Some((number, title)) = &self.step {
            write!(f, "step {number}")?;
            if !title.is_empty() {
                write!(f, " ({title})")?;
            }
            write!(f, "{}", if self.field.is_some() { ", " } else { ": " })?;
        }
        if let Some(field) = &self.field {
            write!(f, "{field}: ")?;
        }
        write!(f, "{}", self.message)?;
        match &self.help {
            Some(help) => write!(f, "\n  help: {help}"),
            None => Ok(()),
        }
    }
}
