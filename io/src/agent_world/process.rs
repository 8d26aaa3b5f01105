//! The life of one spawned process as events: `Started` or `SpawnFailed`, then `Exited`, then `OutputEnded`, last.

use super::Shared;
use super::job_log::LogInput;
use crate::effects::{Effects, Process};
use ibex_core::agent::AgentEvent;
use ibex_core::machine::RequestId;
use ibex_core::process::{ProcessEvent, ProcessSpec};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use tokio::sync::{mpsc, oneshot};

pub(super) async fn run<E: Effects>(
    shared: Shared<E>,
    id: RequestId,
    spec: ProcessSpec,
    log: Option<mpsc::Sender<LogInput<E>>>,
    processes: Rc<RefCell<BTreeMap<RequestId, E::Process>>>,
) {
    let tell = async |event| shared.complete(AgentEvent::Process { id, event }).await;
    let (process, output) = match shared.effects.spawn(spec).await {
        Ok(spawned) => spawned,
        Err(e) => return tell(ProcessEvent::SpawnFailed(e)).await,
    };
    processes.borrow_mut().insert(id, process.clone());
    tell(ProcessEvent::Started { pid: process.pid() }).await;
    let (ended, output_ended) = oneshot::channel();
    if let Some(log) = log {
        let _ = log.send(LogInput::Output(output, ended)).await;
    }
    let status = process.wait().await;
    tell(ProcessEvent::Exited(status)).await;
    // A log stream that is gone has closed the output.
    let cut = output_ended.await.unwrap_or(true);
    tell(ProcessEvent::OutputEnded { cut }).await;
}
