//! `Caddyfile`: this node's sites. Pure: the same records give the same text.

use super::compose::Marks;
use super::view::{NOTE, RETRY_AFTER, Routed, View, push_line};
use crate::routes::address::site_addresses;
use crate::routes::caddy1;
use crate::routes::caddyfile::{self, Directive, Position, Site, Word};
use crate::settings::Version;

pub fn written(apps: &[&Routed], view: &View) -> String {
    let mut out = String::from(NOTE);
    push_line(&mut out, &view.frame.caddy_head);
    let mut page_written = false;
    let apps: Vec<(&Routed, Option<Vec<Site>>)> =
        apps.iter().filter(|app| app.in_caddyfile()).map(|app| (*app, judged(app, view))).collect();
    let sites = apps.iter().filter(|(_, judged)| judged.is_some()).flat_map(|(app, _)| &app.sites);
    let mut marks = Marks::of(sites, &view.frame);
    for (app, judged) in apps {
        out.push_str(&format!("# {}\n", app.name));
        if let Some(mut sites) = judged {
            for (site, handled) in sites.iter_mut().zip(&app.sites) {
                site.body.extend(marks.body(handled));
            }
            push_line(&mut out, &dumped(sites));
            continue;
        }
        if !view.in_maintenance(app) {
            push_line(&mut out, &app.caddyfile);
            continue;
        }
        if view.frame.caddy_version == Version::Two && !page_written {
            page_written = true;
            push_line(&mut out, &page_snippet(&view.frame.page));
        }
        push_line(&mut out, &maintenance_sites(&app.caddyfile, view.frame.caddy_version));
    }
    out + &marks.last_line()
}

/// What of its sites is written out where Caddy is given what was judged: that they are there, and how they prove who they are.
fn judged(app: &Routed, view: &View) -> Option<Vec<Site>> {
    if !view.frame.composed || app.sites.is_empty() || view.in_maintenance(app) {
        return None;
    }
    let mut sites = caddyfile::parse(&app.caddyfile).ok()?;
    sites.iter_mut().for_each(own_lines);
    (sites.len() == app.sites.len()).then_some(sites)
}

fn own_lines(site: &mut Site) {
    site.body.retain(|line| matches!(line.name(), "tls" | "bind" | "log"));
}

/// What every site in maintenance imports.
fn page_snippet(page: &str) -> String {
    let at = Position::default();
    let body = vec![
        Directive::new(&["header", "Retry-After", RETRY_AFTER], at),
        Directive::new(&["header", "Cache-Control", "no-store"], at),
        Directive::new(&["header", "Content-Type", "text/html; charset=utf-8"], at),
        // braces would be placeholders, backquotes would end the word
        Directive::new(&["respond", &page.replace('{', "&#123;").replace('`', "&#96;"), "503"], at),
    ];
    caddyfile::dump(&[Site { addresses: vec![Word::new("(maintenance)", at)], body }])
}

/// The same addresses, and how they prove who they are; nothing else of the application.
fn maintenance_sites(text: &str, version: Version) -> String {
    let at = Position::default();
    // What another program has written can perhaps not be read, but its addresses can.
    let mut sites = caddyfile::parse(text).unwrap_or_else(|_| {
        let addresses = site_addresses(text).map(|address| Word::new(address, at)).collect();
        vec![Site { addresses, body: Vec::new() }]
    });
    for site in &mut sites {
        own_lines(site);
        match version {
            Version::One => site.body.extend(caddy1::unavailable(RETRY_AFTER)),
            Version::Two => site.body.push(Directive::new(&["import", "maintenance"], at)),
        }
    }
    dumped(sites)
}

/// Each address has a block of its own: Caddy asks blocks in an order that the longest of all their hosts decides, and whether one is a wildcard.
fn dumped(sites: Vec<Site>) -> String {
    let alone = |site: Site| site.addresses.into_iter().map(move |address| Site { addresses: vec![address], body: site.body.clone() });
    caddyfile::dump(&sites.into_iter().flat_map(alone).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::view::tests::{app, apps, view, whole_view};
    use super::super::view::{Frame, Routed};
    use super::*;
    use crate::routes::read::tests::set;
    use crate::routes::real;
    use crate::settings;

    fn text_of(apps: &[Routed], view: &View) -> String {
        written(&apps.iter().collect::<Vec<_>>(), view)
    }

    #[test]
    fn the_whole_file() {
        assert_eq!(
            text_of(&apps(), &view()),
            format!(
                "{NOTE}# here\nhttp://Here.example.com, https://here.example.com/x {{\n    respond here\n}}\n\
                 # port\nhttp://port.example.com:8080 {{\n    respond port\n}}\n"
            )
        );
        assert_eq!(text_of(&[], &view()), NOTE);
    }

    #[test]
    fn maintenance() {
        let mut view = view();
        view.frame.page = "it's\n`50 %` {gone}".into();
        view.maintenance = ["here".into()].into();
        assert_eq!(
            text_of(&apps()[4..5], &view),
            format!(
                "{NOTE}# here\n(maintenance) {{\n    header Retry-After 30\n    header Cache-Control no-store\n    \
                 header Content-Type \"text/html; charset=utf-8\"\n    respond \"it's\n&#96;50 %&#96; &#123;gone}}\" 503\n}}\n\
                 http://Here.example.com {{\n    import maintenance\n}}\nhttps://here.example.com/x {{\n    import maintenance\n}}\n"
            )
        );
        let one = View { frame: Frame { caddy_version: Version::One, ..view.frame.clone() }, ..view };
        assert_eq!(
            text_of(&apps()[4..5], &one),
            format!(
                "{NOTE}# here\nhttp://Here.example.com {{\n    header / Retry-After 30\n    status 503 /\n}}\n\
                 https://here.example.com/x {{\n    header / Retry-After 30\n    status 503 /\n}}\n"
            )
        );
    }

    #[test]
    fn caddy_one_records_are_upgraded() {
        let record: Value = serde_json::from_str(include_str!("../../tests/vectors/records/blog.json")).unwrap();
        let record = &record["record"];
        let text = text_of(&[app("blog", record.clone())], &view());
        assert!(text.contains("    reverse_proxy http://blogmaster03d9b_web_1:80 {\n"), "{text}");
        assert!(text.contains("    redir http://blog.example.com 301\n"), "{text}");
        let one = Routed::of("blog", record.to_string().as_bytes(), &view().me, Version::One, None).unwrap();
        assert_eq!(text_of(&[one], &view()), format!("{NOTE}# blog\n{}\n", record["caddyfile"].as_str().unwrap()));
    }

    #[test]
    fn real_caddy_accepts_it() {
        let (apps, mut view) = (apps(), whole_view());
        real::accepts(real::CADDY, &text_of(&[], &view));
        real::accepts(real::CADDY, &text_of(&apps, &view));
        let trusted = ["198.51.100.0/24".to_string(), "2001:db8::1".into()].to_vec();
        let proxies = settings::Proxies { trusted, ..Default::default() };
        view.frame = Frame::of(&proxies, &set(Version::Two), true).unwrap();
        real::accepts(real::CADDY, &text_of(&apps, &view));
        view.maintenance = apps.iter().map(|app| app.name.clone()).collect();
        real::accepts(real::CADDY, &text_of(&apps, &view));
    }
}
