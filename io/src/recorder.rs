//! The flight recorder: every event and a digest of what was decided, on disk, bounded, replayable (`ibex replay`).
//!
//! A recording is JSON lines. The first is the [`Head`]: it tells from what state the events that follow lead on. Each other
//! line is a [`Step`]. Secrets and log bytes are masked by the types themselves, so that a recording can be handed around; as
//! masking is idempotent and the core decides by no secret's value, replaying the masked events leads to the same digests.

use ibex_core::agent::{AgentCommand, AgentConfig, AgentEvent};
use ibex_core::machine::Instant;
use ibex_core::wall::WallClock;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Size at which a recording is continued in a new file; the previous one is kept, so a recorder holds at most twice this.
pub const FILE_BYTES: u64 = 32 * 1024 * 1024;

/// First line of a recording.
#[derive(Debug, Serialize, Deserialize)]
pub struct Head {
    /// Version of the format: 1.
    pub ibexrec: u32,
    /// Version of the program.
    pub version: String,
    /// Configuration, secrets masked.
    pub config: AgentConfig,
    /// Seed of the machine's generator, in hexadecimal.
    pub seed: String,
    /// Wall clock that the machine was made with.
    pub clock: WallClock,
    /// The machine itself, where the recording continues an earlier file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<Box<RawValue>>,
}

/// One step of the machine.
#[derive(Debug, Serialize, Deserialize)]
pub struct Step {
    /// When.
    pub at: Instant,
    /// What happened; `None`: a timer.
    pub event: Option<AgentEvent>,
    /// How many commands came of it.
    pub commands: usize,
    /// Their [`digest`].
    pub digest: String,
}

/// First 16 hexadecimal digits of the SHA-256 of the commands as JSON.
pub fn digest(commands: &[AgentCommand]) -> String {
    let mut hash = Sha256::new();
    serde_json::to_writer(HashWriter(&mut hash), commands).expect("commands are plain data, and hashing cannot fail");
    hex(&hash.finalize()[..8])
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Writes a recording. Each line is written when it is complete, so a crash loses at most the step under way, whose event is
/// then written by [`Drop`].
#[derive(Debug)]
pub struct Recorder {
    path: PathBuf,
    head: Head,
    limit: u64,
    /// `None` after a write failed: recording never stops an agent.
    file: Option<File>,
    written: u64,
    /// The event that the machine has in hand.
    pending: Option<String>,
}

impl Recorder {
    /// Starts the recording `DIR/agent-<pid>.ibexrec` (mode 0600).
    pub fn create(dir: &Path, config: &AgentConfig, seed: [u8; 32], clock: WallClock) -> io::Result<Recorder> {
        std::fs::create_dir_all(dir)?;
        let path = dir.join(format!("agent-{}.ibexrec", std::process::id()));
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let head = Head { ibexrec: 1, version, config: config.clone(), seed: hex(&seed), clock, state: None };
        let mut recorder = Recorder { path, head, limit: FILE_BYTES, file: None, written: 0, pending: None };
        recorder.open()?;
        Ok(recorder)
    }

    /// Continues in a new file at `bytes` instead of [`FILE_BYTES`].
    #[must_use]
    pub fn with_limit(mut self, bytes: u64) -> Recorder {
        self.limit = bytes;
        self
    }

    /// Where the recording is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The machine is about to be given `event`.
    pub fn arriving(&mut self, at: Instant, event: Option<&AgentEvent>) {
        let event = serde_json::to_string(&event).expect("events are plain data");
        self.pending = Some(format!("{{\"at\":{},\"event\":{event}", at.as_nanos()));
    }

    /// The machine has decided.
    pub fn decided(&mut self, machine: &impl Serialize, commands: &[AgentCommand]) {
        let Some(mut line) = self.pending.take() else { return };
        line += &format!(",\"commands\":{},\"digest\":\"{}\"}}\n", commands.len(), digest(commands));
        self.write(line.as_bytes());
        if self.written >= self.limit {
            let state = serde_json::to_string(machine).and_then(RawValue::from_string).expect("machines are plain data");
            self.head.state = Some(state);
            let rotated = std::fs::rename(&self.path, self.path.with_extension("ibexrec.1")).and_then(|()| self.open());
            self.keep_or_stop(rotated);
        }
    }

    fn open(&mut self) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.path)?;
        let mut head = serde_json::to_vec(&self.head)?;
        head.push(b'\n');
        file.write_all(&head)?;
        self.file = Some(file);
        self.written = head.len() as u64;
        Ok(())
    }

    fn write(&mut self, line: &[u8]) {
        let Some(file) = &mut self.file else { return };
        let wrote = file.write_all(line);
        self.written += line.len() as u64;
        self.keep_or_stop(wrote);
    }

    fn keep_or_stop(&mut self, result: io::Result<()>) {
        if let Err(e) = result {
            tracing::warn!("the flight recorder stops: {}: {e}", self.path.display());
            self.file = None;
        }
    }
}

impl Drop for Recorder {
    /// A step that never came to its end (a panic) is the one that matters most.
    fn drop(&mut self) {
        if let Some(line) = self.pending.take() {
            self.write(format!("{line},\"commands\":0,\"digest\":\"\"}}\n").as_bytes());
        }
    }
}

struct HashWriter<'a>(&'a mut Sha256);

impl Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
