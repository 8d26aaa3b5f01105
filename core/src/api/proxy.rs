//! Which proxy, if any, a request goes through (agent-api §2.6). Pure: the variables come in as data.

use super::stream::percent_decode;
use crate::secret::Secret;
// An address as data; no socket is made of it.
use std::net::IpAddr;

/// The variables that name proxies. `ALL_PROXY` is not one of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyRules {
    https: Option<Proxy>,
    http: Option<Proxy>,
    exceptions: Vec<Exception>,
}

/// A proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// How to speak to it.
    pub scheme: ProxyScheme,
    /// Host name or address, IPv6 without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// `user:password`, percent-decoded.
    pub credentials: Option<Secret>,
}

/// Proxy schemes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "named by their URL schemes")]
pub enum ProxyScheme {
    Http,
    Https,
    Socks5,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Exception {
    All,
    /// The host and what is below it; `.suffix` and `*.suffix` only what is below.
    Name {
        suffix: String,
        exact: bool,
        port: Option<u16>,
    },
    Address {
        ip: IpAddr,
        port: Option<u16>,
    },
    Network {
        ip: IpAddr,
        bits: u8,
    },
}

impl ProxyRules {
    /// Reads the variables through `var`; upper case wins over lower case, and an empty variable counts as unset. A proxy URL
    /// that cannot be read is an error that names its variable.
    pub fn from_vars(var: impl Fn(&str) -> Option<String>) -> Result<ProxyRules, String> {
        let either =
            |upper: &str| [upper.to_owned(), upper.to_ascii_lowercase()].into_iter().find_map(|n| var(&n).filter(|v| !v.is_empty()).map(|v| (n, v)));
        let proxy = |upper: &str| match either(upper) {
            None => Ok(None),
            Some((name, value)) => Proxy::parse(&value).map(Some).ok_or(format!("{name} does not name an http, https or socks5 proxy")),
        };
        let exceptions = either("NO_PROXY").map(|(_, list)| list.split(',').filter_map(Exception::parse).collect());
        Ok(ProxyRules { https: proxy("HTTPS_PROXY")?, http: proxy("HTTP_PROXY")?, exceptions: exceptions.unwrap_or_default() })
    }

    /// Whether no request can be proxied.
    pub fn is_empty(&self) -> bool {
        self.https.is_none() && self.http.is_none()
    }

    /// The proxy for a target. `localhost` and loopback addresses are never proxied.
    pub fn proxy_for(&self, https: bool, host: &str, port: u16) -> Option<&Proxy> {
        let proxy = if https { self.https.as_ref() } else { self.http.as_ref() }?;
        let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase();
        let ip: Option<IpAddr> = host.parse().ok();
        let local = host == "localhost" || ip.is_some_and(|ip| ip.to_canonical().is_loopback());
        (!local && !self.exceptions.iter().any(|e| e.covers(&host, ip, port))).then_some(proxy)
    }
}

impl Proxy {
    /// Reads a proxy URL; without a scheme it is an http proxy.
    fn parse(url: &str) -> Option<Proxy> {
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
        let (scheme, default_port) = match scheme.to_ascii_lowercase().as_str() {
            "http" => (ProxyScheme::Http, 80),
            "https" => (ProxyScheme::Https, 443),
            "socks5" | "socks5h" => (ProxyScheme::Socks5, 1080),
            _ => return None,
        };
        let authority = rest.split(['/', '?', '#']).next()?;
        let (credentials, host_port) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(Secret::new(percent_decode(user))), host),
            None => (None, authority),
        };
        let (host, port) = split_port(host_port)?;
        (!host.is_empty()).then(|| Proxy { scheme, host: host.to_owned(), port: port.unwrap_or(default_port), credentials })
    }
}

impl Exception {
    fn parse(text: &str) -> Option<Exception> {
        let text = text.trim().to_ascii_lowercase();
        if text == "*" {
            return Some(Exception::All);
        }
        if let Some((ip, bits)) = text.split_once('/') {
            let (ip, bits) = (ip.parse::<IpAddr>().ok()?, bits.parse::<u8>().ok()?);
            let most = if ip.is_ipv4() { 32 } else { 128 };
            return (bits <= most).then_some(Exception::Network { ip, bits });
        }
        if let Ok(ip) = text.parse() {
            return Some(Exception::Address { ip, port: None });
        }
        let (host, port) = split_port(&text)?;
        if let Ok(ip) = host.parse() {
            return Some(Exception::Address { ip, port });
        }
        let below = host.strip_prefix('*').unwrap_or(host).strip_prefix('.');
        let suffix = below.unwrap_or(host).trim_end_matches('.').to_owned();
        (!suffix.is_empty()).then_some(Exception::Name { suffix, exact: below.is_none(), port })
    }

    fn covers(&self, host: &str, target: Option<IpAddr>, target_port: u16) -> bool {
        let port_matches = |port: &Option<u16>| port.is_none_or(|p| p == target_port);
        match self {
            Exception::All => true,
            Exception::Name { suffix, exact, port } => {
                let below = host.strip_suffix(suffix.as_str()).is_some_and(|head| head.ends_with('.'));
                port_matches(port) && (below || (*exact && host == suffix))
            }
            Exception::Address { ip, port } => port_matches(port) && target.is_some_and(|t| t.to_canonical() == ip.to_canonical()),
            Exception::Network { ip, bits } => target.is_some_and(|t| in_network(t.to_canonical(), *ip, *bits)),
        }
    }
}

fn in_network(target: IpAddr, network: IpAddr, bits: u8) -> bool {
    match (target, network) {
        (IpAddr::V4(t), IpAddr::V4(n)) => bits == 0 || (t.to_bits() ^ n.to_bits()) >> (32 - u32::from(bits)) == 0,
        (IpAddr::V6(t), IpAddr::V6(n)) => bits == 0 || (t.to_bits() ^ n.to_bits()) >> (128 - u32::from(bits)) == 0,
        _ => false,
    }
}

/// Splits `host[:port]`, with IPv6 hosts in brackets.
fn split_port(text: &str) -> Option<(&str, Option<u16>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, tail) = rest.split_once(']')?;
        return match tail.strip_prefix(':') {
            Some(port) => Some((host, Some(port.parse().ok()?))),
            None => tail.is_empty().then_some((host, None)),
        };
    }
    match text.split_once(':') {
        Some((host, port)) => Some((host, Some(port.parse().ok()?))),
        None => Some((text, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(vars: &[(&str, &str)]) -> ProxyRules {
        ProxyRules::from_vars(|name| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())).unwrap()
    }

    #[test]
    fn each_scheme_has_its_variable_and_upper_case_wins() {
        let r = rules(&[
            ("HTTPS_PROXY", "http://up:1"),
            ("https_proxy", "http://low:1"),
            ("http_proxy", "socks5://u:p%40ss@s"),
            ("ALL_PROXY", "http://all"),
        ]);
        assert_eq!(r.proxy_for(true, "example.com", 443).unwrap().host, "up");
        let http = r.proxy_for(false, "example.com", 80).unwrap();
        assert_eq!((http.scheme, http.host.as_str(), http.port), (ProxyScheme::Socks5, "s", 1080));
        assert_eq!(http.credentials.as_ref().unwrap().expose(), "u:p@ss");
        assert!(rules(&[("ALL_PROXY", "http://all")]).is_empty());
        assert!(ProxyRules::from_vars(|n| (n == "HTTP_PROXY").then(|| "ftp://x".to_owned())).unwrap_err().starts_with("HTTP_PROXY"));
    }

    #[test]
    fn loopback_is_never_proxied() {
        let r = rules(&[("HTTP_PROXY", "p:3128")]);
        for host in ["localhost", "LOCALHOST", "127.0.0.1", "127.8.9.1", "[::1]", "::ffff:127.0.0.1"] {
            assert_eq!(r.proxy_for(false, host, 80), None, "{host}");
        }
        assert!(r.proxy_for(false, "localhost.example.com", 80).is_some());
    }

    #[test]
    fn exceptions_are_names_addresses_networks_and_ports() {
        let direct = |list: &str, host: &str, port: u16| rules(&[("HTTPS_PROXY", "p:1"), ("NO_PROXY", list)]).proxy_for(true, host, port).is_none();
        for (list, host, port, want) in [
            ("*", "anything", 443, true),
            ("example.com", "example.com", 443, true),
            ("example.com", "a.example.com", 443, true),
            ("example.com", "notexample.com", 443, false),
            (".example.com", "example.com", 443, false),
            (".example.com", "a.example.com", 443, true),
            ("*.example.com", "a.example.com", 443, true),
            ("example.com:8080", "example.com", 443, false),
            ("example.com:8080", "example.com", 8080, true),
            ("10.0.0.1", "10.0.0.1", 443, true),
            ("10.0.0.1:444", "10.0.0.1", 443, false),
            ("10.0.0.0/8, 192.168.0.0/16", "192.168.3.4", 443, true),
            ("10.0.0.0/8", "11.0.0.1", 443, false),
            ("fd00::/8", "[fd12::1]", 443, true),
            ("0.0.0.0/0", "8.8.8.8", 443, true),
            ("10.0.0.0/99", "10.0.0.1", 443, false),
        ] {
            assert_eq!(direct(list, host, port), want, "{list} {host}:{port}");
        }
    }
}
