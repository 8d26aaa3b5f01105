//! Requests and responses of the Agent API as data, and how an exchange is classified (specification: agent-api).
//!
//! A machine emits an [`ApiCall`]; the driver turns it into bytes with `encode`, exchanges them, and turns what came back
//! into an [`Outcome`] with `decode`. Both functions are pure, so the transport interprets nothing.

mod bodies;
mod decode;
mod encode;
mod mend;
mod proxy;
mod redirect;
mod stream;
mod types;

pub use decode::{decode, parse_retry_after, status_text, transport_error};
pub use encode::{encode, encode_stream, escape_query, escape_registry, escape_segment, join, shown_url};
pub use proxy::{Proxy, ProxyRules, ProxyScheme};
pub use redirect::{Hop, REDIRECTS, redirect};
pub use stream::{PingStream, decode_ping_request, encode_ping_response, stream_broken, stream_deadline};
pub use types::*;
