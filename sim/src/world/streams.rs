//! Ping streams as the simulated control plane sends them: what `core::plane` says, with the faults of the run in it.

use super::plane::PlaneHost;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use hyper::body::{Body as HttpBody, Frame};
use ibex_core::plane::PlaneEvent;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;

/// The body of a ping stream. Dropped before its trailers it tells the control plane that the agent has gone.
pub(super) struct Streamed {
    id: u64,
    host: Rc<PlaneHost>,
    frames: mpsc::Receiver<Frame<Bytes>>,
    /// When it is ended, by a fault.
    until: Option<(Pin<Box<tokio::time::Sleep>>, u32)>,
    /// Frames are said twice.
    twice: bool,
    again: Option<Bytes>,
    /// Nothing is said until the end.
    dumb: bool,
    over: bool,
}

impl Streamed {
    pub(super) fn new(id: u64, host: Rc<PlaneHost>, frames: mpsc::Receiver<Frame<Bytes>>) -> Streamed {
        Streamed { id, host, frames, until: None, twice: false, again: None, dumb: false, over: false }
    }

    /// It is ended with this gRPC status, whatever the control plane says.
    pub(super) fn ends(&mut self, after_ms: u64, code: u32) {
        self.until = Some((Box::pin(tokio::time::sleep(Duration::from_millis(after_ms))), code));
    }

    pub(super) fn say_nothing(&mut self) {
        self.dumb = true;
    }

    pub(super) fn say_twice(&mut self) {
        self.twice = true;
    }

    pub(super) fn say_first(&mut self, frame: Bytes) {
        self.again = Some(frame);
    }
}

impl HttpBody for Streamed {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.over {
            return Poll::Ready(None);
        }
        if let Some(data) = self.again.take() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if let Some((until, code)) = &mut self.until
            && until.as_mut().poll(cx).is_ready()
        {
            let trailers = trailers(*code, "a simulated fault");
            self.host.feed(PlaneEvent::Gone { id: self.id });
            self.over = true;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        loop {
            let frame = std::task::ready!(self.frames.poll_recv(cx));
            let data = frame.as_ref().and_then(Frame::data_ref).cloned();
            if self.dumb && data.is_some() {
                continue;
            }
            self.over = data.is_none();
            self.again = data.filter(|_| self.twice);
            return Poll::Ready(frame.map(Ok));
        }
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        if !self.over && !self.host.world.is_over() {
            self.host.feed(PlaneEvent::Gone { id: self.id });
        }
    }
}

pub(super) fn trailers(status: u32, message: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(status));
    if !message.is_empty() {
        trailers.insert("grpc-message", HeaderValue::from_static(message));
    }
    trailers
}
