//! Metrics that leave the process (start-and-worker §7.2). Without the feature `otel` there are none, and the option that asks
//! for them is refused before it comes here.

use crate::flags::Values;
use crate::log::Logger;
use ibex_core::agent::{AgentConfig, Exit};
use ibex_io::tokio::MetricSink;
use std::rc::Rc;

/// The exporter, if there is one.
pub(crate) struct Metrics {
    #[cfg(feature = "otel")]
    otlp: Option<Rc<ibex_io::tokio::Otlp>>,
}

#[cfg(feature = "otel")]
impl Metrics {
    /// Prepares the exporter. If it cannot work the configuration says why, and the workers fail by it.
    pub(crate) fn prepare(values: &Values, config: &mut AgentConfig, log: &Rc<Logger>) -> Metrics {
        let Some(Ok(protocol)) = config.otlp else { return Metrics { otlp: None } };
        let service = ibex_io::tokio::Service { name: values.text("telemetry-service-name").to_owned(), version: crate::version::VERSION.to_owned() };
        match ibex_io::tokio::Otlp::start(protocol, service, log.clone()) {
            Ok(otlp) => Metrics { otlp: Some(Rc::new(otlp)) },
            Err(e) => {
                config.otlp = Some(Err(e));
                Metrics { otlp: None }
            }
        }
    }

    /// Where metrics go.
    pub(crate) fn sink(&self) -> Option<Rc<dyn MetricSink>> {
        self.otlp.clone().map(|otlp| otlp as _)
    }

    /// Waits, within a bound, for the last export; an exit in haste does not.
    pub(crate) async fn end(self, exit: &Exit) {
        if let Some(otlp) = self.otlp.filter(|_| !exit.kill_jobs) {
            otlp.flushed().await;
        }
    }
}

#[cfg(not(feature = "otel"))]
impl Metrics {
    /// Nothing to prepare.
    pub(crate) fn prepare(_: &Values, _: &mut AgentConfig, _: &Rc<Logger>) -> Metrics {
        Metrics {}
    }

    /// Nowhere.
    pub(crate) fn sink(&self) -> Option<Rc<dyn MetricSink>> {
        None
    }

    /// Nothing to wait for.
    pub(crate) async fn end(self, _: &Exit) {}
}
