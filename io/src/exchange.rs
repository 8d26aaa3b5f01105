//! One API call or one ping stream, from data to data: encode, exchange, follow redirects, limit, decode. Every decision in
//! it is a function of `ibex_core::api`.

use crate::effects::{Effects, StreamFrame, Streaming};
use ibex_core::api::{
    ApiCall, Hop, Outcome, PingStream, REDIRECTS, RawRequest, RawResponse, StreamCall, StreamEnd, StreamMessage, TransportError, TransportKind,
    decode, encode, encode_stream, redirect, stream_broken, stream_deadline, transport_error,
};
use ibex_core::retry::duration_text;

/// Makes one attempt of one call. Dropping the future closes the exchange.
pub async fn call<E: Effects>(effects: &E, call: &ApiCall, user_agent: &str) -> Outcome {
    let request = encode(call, user_agent);
    let response = match tokio::time::timeout(call.limit, follow(effects, request.clone())).await {
        Ok(response) => response,
        Err(_) => {
            let cause = format!("no complete response within {}", duration_text(call.limit));
            Err(transport_error(TransportKind::Timeout, request.method, &request.url, &cause))
        }
    };
    decode(&call.operation, &request, response)
}

/// Exchanges `request` and follows at most [`REDIRECTS`] redirects. The method in error texts stays the first one's.
pub async fn follow<E: Effects>(effects: &E, mut request: RawRequest) -> Result<RawResponse, TransportError> {
    let method = request.method;
    for _ in 0..=REDIRECTS {
        let response = effects.exchange(request.clone()).await?;
        match redirect(&request, &response) {
            Hop::Stay => return Ok(response),
            Hop::Follow(next) => request = *next,
        }
    }
    let cause = format!("stopped after {REDIRECTS} redirects");
    Err(transport_error(TransportKind::Other, method, &request.url, &cause))
}

/// Opens a ping stream and hands out its messages until it ends. `deliver` may wait: the stream is then not read.
pub async fn stream<E: Effects>(effects: &E, call: &StreamCall, user_agent: &str, deliver: impl AsyncFnMut(StreamMessage)) -> StreamEnd {
    let request = encode_stream(call, user_agent);
    match tokio::time::timeout(call.limit, read_stream(effects, request, deliver)).await {
        Ok(Ok(end) | Err(end)) => end,
        Err(_) => stream_deadline(),
    }
}

async fn read_stream<E: Effects>(effects: &E, request: RawRequest, mut deliver: impl AsyncFnMut(StreamMessage)) -> Result<StreamEnd, StreamEnd> {
    let mut streaming = effects.stream(request).await.map_err(|e| stream_broken(&e))?;
    let mut frames = PingStream::open(streaming.status(), streaming.headers())?;
    let mut messages = Vec::new();
    while let Some(frame) = streaming.next().await {
        match frame.map_err(|e| stream_broken(&e))? {
            StreamFrame::Data(bytes) => {
                let read = frames.data(&bytes, &mut messages);
                for message in messages.drain(..) {
                    deliver(message).await;
                }
                read?;
            }
            StreamFrame::Trailers(trailers) => frames.trailers(&trailers),
        }
    }
    Ok(frames.end())
}
