//! Metrics over OTLP (start-and-worker §7.2), feature `otel`.
//!
//! The exporter has a thread with a runtime of its own: the SDK collects and exports on threads that block, and the connection
//! must be served meanwhile, also while the last export is waited for. Counting happens in place and never blocks.

use super::world::{LogSink, MetricSink};
use ibex_core::agent::{AgentLog, Level, Metric, MetricAttributes, OtlpProtocol};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram, Meter, MeterProvider};
use opentelemetry_otlp::tonic_types::transport::ClientTlsConfig;
use opentelemetry_otlp::{
    MetricExporter, OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_METRICS_ENDPOINT, Protocol, WithExportConfig, WithTonicConfig,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider, Temporality};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// Failures that wait to be logged. At the limit further ones are dropped: they say the same.
const NOTES: usize = 16;
/// How long the end of the process waits for the last export. The SDK itself gives up after 5 s.
const LAST_EXPORT: Duration = Duration::from_secs(6);

/// What every data point is attributed to.
#[derive(Clone, Debug)]
pub struct Service {
    /// `service.name`
    pub name: String,
    /// `service.version`
    pub version: String,
}

/// The exporter of the process.
pub struct Otlp {
    instruments: Instruments,
    /// Present until the flush.
    flush: RefCell<Option<oneshot::Sender<()>>>,
    /// Ends with the last export.
    teller: RefCell<Option<JoinHandle<()>>>,
}

struct Instruments {
    finished: Counter<u64>,
    duration: Histogram<f64>,
    queue: Histogram<f64>,
}

/// What the exporter's thread has to say.
enum Note {
    Failed(String),
    Ended,
}

impl Otlp {
    /// Prepares the exporter; nothing is sent before something was counted. Endpoint, headers, compression, interval and so on
    /// come from the `OTEL_…` variables of the process. Must be called inside a `LocalSet`.
    ///
    /// # Errors
    /// Why the exporter cannot work, e.g. an endpoint that is no URL.
    pub fn start(protocol: OtlpProtocol, service: Service, log: Rc<dyn LogSink>) -> Result<Otlp, String> {
        let (ready, started) = std::sync::mpsc::sync_channel(1);
        let (notes, mut said) = mpsc::channel(NOTES);
        let (flush, flushed) = oneshot::channel();
        std::thread::Builder::new()
            .name("otlp".to_owned())
            .spawn(move || run(protocol, &service, &ready, notes, flushed))
            .map_err(|e| format!("could not start a thread for OTLP metrics: {e}"))?;
        // Nothing but local preparation happens until the answer comes.
        let instruments = started.recv().unwrap_or_else(|_| Err("the exporter of OTLP metrics ended".to_owned()))?;
        let teller = tokio::task::spawn_local(async move {
            while let Some(Note::Failed(text)) = said.recv().await {
                let text = format!("Failed to export metrics by OTLP: {text}");
                log.log(&AgentLog { level: Level::Warn, worker: None, text, fields: Vec::new() });
            }
        });
        Ok(Otlp { instruments, flush: RefCell::new(Some(flush)), teller: RefCell::new(Some(teller)) })
    }

    /// Waits, within a bound, for an export that [`MetricSink::flush`] has begun; returns at once if there is none.
    pub async fn flushed(&self) {
        let begun = self.flush.borrow().is_none();
        let teller = self.teller.borrow_mut().take().filter(|_| begun);
        if let Some(teller) = teller {
            // A collector that does not answer does not keep the process.
            let _ = tokio::time::timeout(LAST_EXPORT, teller).await;
        }
    }
}

impl MetricSink for Otlp {
    fn metric(&self, metric: &Metric) {
        let milliseconds = |d: &Duration| d.as_secs_f64() * 1000.0;
        match metric {
            Metric::JobFinished { ran, attributes } => {
                let attributes = key_values(attributes);
                self.instruments.finished.add(1, &attributes);
                self.instruments.duration.record(milliseconds(ran), &attributes);
            }
            Metric::QueueTime { waited, attributes } => self.instruments.queue.record(milliseconds(waited), &key_values(attributes)),
            _ => {}
        }
    }

    fn flush(&self) {
        if let Some(flush) = self.flush.borrow_mut().take() {
            // A thread that has gone has said why.
            let _ = flush.send(());
        }
    }
}

fn key_values(attributes: &MetricAttributes) -> Vec<KeyValue> {
    attributes.0.iter().map(|(name, value)| KeyValue::new(name.clone(), value.clone())).collect()
}

impl Instruments {
    fn of(meter: &Meter) -> Instruments {
        let milliseconds = |name| meter.f64_histogram(name).with_unit("ms").build();
        Instruments {
            finished: meter.u64_counter("jobs.finished").build(),
            duration: milliseconds("jobs.duration"),
            queue: milliseconds("queue.duration"),
        }
    }
}

/// The life of the exporter's thread.
fn run(
    protocol: OtlpProtocol,
    service: &Service,
    ready: &std::sync::mpsc::SyncSender<Result<Instruments, String>>,
    notes: mpsc::Sender<Note>,
    flush: oneshot::Receiver<()>,
) {
    let begun = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| format!("could not prepare OTLP metrics: {e}"));
    let runtime = match begun {
        Ok(runtime) => runtime,
        Err(e) => return drop(ready.send(Err(e))),
    };
    runtime.block_on(async {
        let provider = match exporter(protocol) {
            Ok(exporter) => provider(Telling { exporter, notes: notes.clone() }, service),
            Err(e) => return drop(ready.send(Err(e))),
        };
        drop(ready.send(Ok(Instruments::of(&provider.meter("buildkite-agent")))));
        // Without a flush the agent exits in haste, and this thread with it.
        if flush.await.is_ok() {
            let ended = tokio::task::spawn_blocking(move || provider.shutdown()).await;
            if let Ok(Err(OTelSdkError::Timeout(limit))) = ended {
                let _ = notes.try_send(Note::Failed(format!("no end within {}", ibex_core::retry::duration_text(limit))));
            }
            let _ = notes.send(Note::Ended).await;
        }
    });
}

fn exporter(protocol: OtlpProtocol) -> Result<MetricExporter, String> {
    let builder = MetricExporter::builder();
    let built = match protocol {
        OtlpProtocol::Grpc => {
            let grpc = builder.with_tonic().with_protocol(Protocol::Grpc);
            // Roots are read only where they are needed: a host without any may well have a collector of its own.
            if is_plain(&endpoint()) { grpc.build() } else { grpc.with_tls_config(ClientTlsConfig::new().with_enabled_roots()).build() }
        }
        OtlpProtocol::Http => builder.with_http().with_protocol(Protocol::HttpBinary).build(),
    };
    built.map_err(|e| format!("could not prepare OTLP metrics: {e}"))
}

/// The endpoint that the exporter finds in the environment; empty: its default, which is plain and local.
fn endpoint() -> String {
    let set = |name| std::env::var(name).ok().filter(|v| !v.is_empty());
    set(OTEL_EXPORTER_OTLP_METRICS_ENDPOINT).or_else(|| set(OTEL_EXPORTER_OTLP_ENDPOINT)).unwrap_or_default()
}

fn is_plain(endpoint: &str) -> bool {
    endpoint.is_empty() || endpoint.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("http://"))
}

fn provider(exporter: Telling, service: &Service) -> SdkMeterProvider {
    let own = [("service.version", service.version.clone()), ("deployment.environment", "ci".to_owned())];
    let resource =
        Resource::builder().with_service_name(service.name.clone()).with_attributes(own.map(|(name, value)| KeyValue::new(name, value))).build();
    SdkMeterProvider::builder().with_resource(resource).with_reader(PeriodicReader::builder(exporter).build()).build()
}

/// An exporter whose failures are told.
struct Telling {
    exporter: MetricExporter,
    notes: mpsc::Sender<Note>,
}

impl PushMetricExporter for Telling {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let result = self.exporter.export(metrics).await;
        if let Err(e) = &result {
            let _ = self.notes.try_send(Note::Failed(e.to_string()));
        }
        result
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.exporter.temporality()
    }
}
