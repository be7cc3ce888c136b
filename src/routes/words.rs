//! What an application may write into haproxy's configuration: lines that are known, each word of which is that very word or a value of a known
//! type. haproxy's own quotes, escapes and variables are in none of them, so that it reads what was checked. Pure.

/// Where a line stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Place {
    Frontend,
    Backend,
    /// Words behind a server's address.
    Server,
    /// Behind `use_backend`.
    Condition,
}

/// In capitals: a value of that type.
const FRONTEND: [&str; 10] = [
    "option tcplog",
    "option httplog",
    "option dontlognull",
    "option socket-stats",
    "option clitcpka",
    "timeout client TIME",
    "maxconn COUNT",
    "tcp-request inspect-delay TIME",
    "tcp-request content accept if { req_ssl_hello_type 1 }",
    "tcp-request content accept if { req.ssl_hello_type 1 }",
];

const BACKEND: [&str; 20] = [
    "option tcp-check",
    "option srvtcpka",
    "option ssl-hello-chk",
    "option ldap-check",
    "option redis-check",
    "option smtpchk",
    "option smtpchk HELO NAME",
    "option smtpchk EHLO NAME",
    "option mysql-check",
    "option mysql-check user NAME",
    "option pgsql-check user NAME",
    "option httpchk",
    "option httpchk GET PATH",
    "option httpchk HEAD PATH",
    "balance roundrobin",
    "balance leastconn",
    "balance source",
    "timeout server TIME",
    "timeout connect TIME",
    "timeout tunnel TIME",
];

const SERVER: [&str; 9] =
    ["send-proxy", "send-proxy-v2", "check", "maxconn COUNT", "inter TIME", "fastinter TIME", "downinter TIME", "fall COUNT", "rise COUNT"];

const CONDITION: [&str; 4] =
    ["if { hdr(host) -i NAME }", "if { req.hdr(host) -i NAME }", "if { req_ssl_sni -i NAME }", "if { req.ssl_sni -i NAME }"];

impl Place {
    pub fn known(self) -> &'static [&'static str] {
        match self {
            Place::Frontend => &FRONTEND,
            Place::Backend => &BACKEND,
            Place::Server => &SERVER,
            Place::Condition => &CONDITION,
        }
    }
}

/// Microseconds: haproxy counts milliseconds, and takes no more of them.
const LONGEST: u64 = 2_147_483_647_000;
/// Of a line: haproxy takes 64, and what is written behind them are some, too.
const MOST_WORDS: usize = 40;

/// As it is to be written: its words with one space between them. `Err`: what comes nearest.
pub fn line(place: Place, text: &str) -> Result<String, Vec<&'static str>> {
    let spaced = text.replace('{', " { ").replace('}', " } ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = &words[..];
    if words.len() > MOST_WORDS {
        return Err(nearest(place, rest));
    }
    // A server has several of its words in one line.
    while !rest.is_empty() {
        let fits = |known: &&&str| {
            let known: Vec<&str> = known.split(' ').collect();
            (known.len() == rest.len() || place == Place::Server && known.len() < rest.len()) && known.iter().zip(rest).all(fits)
        };
        let Some(known) = place.known().iter().find(fits) else { return Err(nearest(place, rest)) };
        rest = &rest[known.split(' ').count()..];
    }
    Ok(words.join(" "))
}

/// Those that begin as it does, else all.
fn nearest(place: Place, words: &[&str]) -> Vec<&'static str> {
    let alike = |count: usize| -> Vec<&'static str> {
        let begins = |known: &&&str| words.len() >= count && known.split(' ').take(count).eq(words.iter().take(count).copied());
        place.known().iter().filter(begins).copied().collect()
    };
    [2, 1, 0].into_iter().map(alike).find(|alike| !alike.is_empty()).unwrap_or_default()
}

/// Whether a condition can hold in a frontend of this mode; `Err`: those that can.
pub fn fits_mode(condition: &str, mode: &str) -> Result<(), Vec<&'static str>> {
    let is_fit = |condition: &str| condition.contains("ssl_sni") == (mode == "tcp");
    if is_fit(condition) { Ok(()) } else { Err(CONDITION.into_iter().filter(|known| is_fit(known)).collect()) }
}

/// The host whose requests a condition leads to the application.
pub fn host(condition: &str) -> Option<String> {
    let line = line(Place::Condition, condition).ok()?;
    line.split(' ').rev().nth(1).map(str::to_ascii_lowercase)
}

fn fits((known, word): (&&str, &&str)) -> bool {
    let all = |fine: &dyn Fn(u8) -> bool| !word.is_empty() && word.len() <= 253 && word.bytes().all(fine);
    match *known {
        "TIME" => {
            let number = word.trim_end_matches(|c: char| c.is_ascii_lowercase());
            let unit = &word[number.len()..];
            let units =
                [("", 1000), ("us", 1), ("ms", 1000), ("s", 1_000_000), ("m", 60_000_000), ("h", 3_600_000_000), ("d", 86_400_000_000)];
            let of = |unit: &str| units.iter().find(|(known, _)| *known == unit).map_or(u64::MAX, |(_, micros)| *micros);
            let micros = number.parse::<u64>().ok().filter(|_| number.bytes().all(|b| b.is_ascii_digit()));
            micros.and_then(|number| number.checked_mul(of(unit))).is_some_and(|micros| (1..=LONGEST).contains(&micros))
        }
        "COUNT" => word.len() <= 6 && all(&|b| b.is_ascii_digit()) && !word.starts_with('0'),
        "NAME" => all(&|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) && !word.starts_with('-'),
        "PATH" => word.starts_with('/') && all(&|b| b.is_ascii_alphanumeric() || b"/._~=&?-".contains(&b)),
        known => known == *word,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_lines_are_written_with_single_spaces() {
        for (place, text, written) in [
            (Place::Frontend, " option  tcplog ", "option tcplog"),
            (Place::Frontend, "timeout client 1h", "timeout client 1h"),
            (
                Place::Frontend,
                "tcp-request content accept if {req_ssl_hello_type 1}",
                "tcp-request content accept if { req_ssl_hello_type 1 }",
            ),
            (Place::Backend, "option smtpchk EHLO mail.example.com", "option smtpchk EHLO mail.example.com"),
            (Place::Backend, "option httpchk GET /health?x=1", "option httpchk GET /health?x=1"),
            (Place::Server, "send-proxy-v2 maxconn 20 inter 2s fall 3 rise 1", "send-proxy-v2 maxconn 20 inter 2s fall 3 rise 1"),
            (Place::Server, "", ""),
            (Place::Condition, "if {hdr(host)  -i Shop.example.com}", "if { hdr(host) -i Shop.example.com }"),
        ] {
            assert_eq!(line(place, text), Ok(written.into()), "{text}");
        }
        assert_eq!(host("if { req.ssl_sni -i Shop.example.com }").as_deref(), Some("shop.example.com"));
        assert_eq!(host(""), None);
    }

    #[test]
    fn whatever_else_is_refused_with_what_comes_nearest() {
        for (place, text) in [
            (Place::Frontend, "'global'"),
            (Place::Frontend, "\"option\" tcplog"),
            (Place::Frontend, "option tcplog # x"),
            (Place::Frontend, "option\\ tcplog"),
            (Place::Frontend, "stats admin if TRUE"),
            (Place::Frontend, "timeout client 0"),
            (Place::Frontend, "timeout client ${T}"),
            (Place::Frontend, "maxconn 99999999"),
            (Place::Frontend, "http-request return status 200 file /etc/passwd"),
            (Place::Backend, "command sh -c id"),
            (Place::Backend, "option httpchk GET /%[env(HOME)]"),
            (Place::Server, "send-proxy backup"),
            (Place::Server, "inter"),
            (Place::Condition, "if TRUE"),
            (Place::Condition, "if { hdr(host) -i a b }"),
            (Place::Condition, "if { hdr(host) -i * }"),
            (Place::Condition, "unless { hdr(host) -i a }"),
        ] {
            assert!(line(place, text).is_err(), "{text}");
        }
        assert_eq!(line(Place::Backend, "balance random"), Err(vec!["balance roundrobin", "balance leastconn", "balance source"]));
        assert_eq!(line(Place::Backend, "timeout server soon"), Err(vec!["timeout server TIME"]));
        assert_eq!(line(Place::Condition, ""), Ok(String::new()));
    }

    /// Each known line, with real values, on its own configuration.
    #[test]
    fn real_haproxy_accepts_each_of_them() {
        use crate::routes::real;
        let real = |known: &&str| {
            known.replace("TIME", "10s").replace("COUNT", "20").replace("NAME", "a.example.com").replace("PATH", "/health?x=1&y=2")
        };
        for (mode, condition) in [("http", &CONDITION[..2]), ("tcp", &CONDITION[2..])] {
            let lines = |place: Place| -> String {
                let lines =
                    place.known().iter().filter(|known| mode == "tcp" || !known.starts_with("tcp-request") && **known != "option tcplog");
                lines.map(|known| format!("    {}\n", real(known))).collect()
            };
            let server: String = SERVER.iter().map(|known| format!(" {}", real(known))).collect();
            let uses: String = condition.iter().map(|known| format!("    use_backend b {}\n", real(known))).collect();
            real::accepts(
                real::HAPROXY,
                &format!(
                    "defaults\n    timeout connect 5s\n    timeout client 5s\n    timeout server 5s\nfrontend f\n    bind *:2222\n    mode {mode}\n{}{uses}backend b\n    \
                     mode {mode}\n{}    server s 127.0.0.1:80{server}\n",
                    lines(Place::Frontend),
                    lines(Place::Backend),
                ),
            );
        }
    }

    /// What is let through haproxy takes: an application whose line it does not take is left out on every node, and its order was done.
    #[test]
    fn attack17_real_haproxy_takes_what_is_let_through() {
        use crate::routes::real;
        for (place, text) in [
            (Place::Backend, "timeout tunnel 30d"),
            (Place::Frontend, "timeout client 720h"),
            (Place::Server, "check inter 25d"),
            (Place::Server, &"check ".repeat(70)),
        ] {
            let Ok(line) = line(place, text) else { continue };
            let at = |which: Place| if place == which { format!("    {line}\n") } else { String::new() };
            let server = if place == Place::Server { &*line } else { "" };
            let file = format!(
                "defaults\n    timeout connect 5s\n    timeout client 5s\n    timeout server 5s\nfrontend f\n    bind *:2222\n    mode tcp\n{}    \
                 default_backend b\nbackend b\n    mode tcp\n{}    server s 127.0.0.1:80 {server}\n",
                at(Place::Frontend),
                at(Place::Backend)
            );
            let taken = std::panic::catch_unwind(|| real::accepts(real::HAPROXY, &file));
            assert!(taken.is_ok(), "{line:?} is let through, and haproxy does not take it");
        }
    }
}
