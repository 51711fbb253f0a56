//! The files of the pages, as they are in the binary.
//!
//! It must never hold anything of a server: all servers hand out the same bytes, to anybody.
//!
//! Start reading at [`file`].

/// One file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct File {
    /// Its media type.
    pub media_type: &'static str,
    /// Its text.
    pub text: &'static str,
}

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const IMAGE: &str = "image/svg+xml";

/// The file of this name; `index.html` is the page itself.
#[must_use]
pub fn file(name: &str) -> Option<File> {
    let found = |media_type, text| Some(File { media_type, text });
    match name {
        "index.html" => found(HTML, include_str!("../pages/index.html")),
        "style.css" => found(STYLE, include_str!("../pages/style.css")),
        "icon.svg" => found(IMAGE, include_str!("../pages/icon.svg")),
        "docs.html" => found(HTML, include_str!("../pages/docs.html")),
        "docs.js" => found(SCRIPT, include_str!("../pages/docs.js")),
        "main.js" => found(SCRIPT, include_str!("../pages/main.js")),
        "api.js" => found(SCRIPT, include_str!("../pages/api.js")),
        "dom.js" => found(SCRIPT, include_str!("../pages/dom.js")),
        "picture.js" => found(SCRIPT, include_str!("../pages/picture.js")),
        "now.js" => found(SCRIPT, include_str!("../pages/now.js")),
        "requests.js" => found(SCRIPT, include_str!("../pages/requests.js")),
        "timeline.js" => found(SCRIPT, include_str!("../pages/timeline.js")),
        "models.js" => found(SCRIPT, include_str!("../pages/models.js")),
        "experiments.js" => found(SCRIPT, include_str!("../pages/experiments.js")),
        "svg.js" => found(SCRIPT, include_str!("../pages/svg.js")),
        "ask.js" => found(SCRIPT, include_str!("../pages/ask.js")),
        "alerts.js" => found(SCRIPT, include_str!("../pages/alerts.js")),
        "monitors.js" => found(SCRIPT, include_str!("../pages/monitors.js")),
        "overrides.js" => found(SCRIPT, include_str!("../pages/overrides.js")),
        "rule.js" => found(SCRIPT, include_str!("../pages/rule.js")),
        "rule_form.js" => found(SCRIPT, include_str!("../pages/rule_form.js")),
        "playground.js" => found(SCRIPT, include_str!("../pages/playground.js")),
        "sureness.js" => found(SCRIPT, include_str!("../pages/sureness.js")),
        "coverage.js" => found(SCRIPT, include_str!("../pages/coverage.js")),
        "data.js" => found(SCRIPT, include_str!("../pages/data.js")),
        "diff.js" => found(SCRIPT, include_str!("../pages/diff.js")),
        "empty.js" => found(SCRIPT, include_str!("../pages/empty.js")),
        "failures.js" => found(SCRIPT, include_str!("../pages/failures.js")),
        "learning.js" => found(SCRIPT, include_str!("../pages/learning.js")),
        "quarantine.js" => found(SCRIPT, include_str!("../pages/quarantine.js")),
        "review.js" => found(SCRIPT, include_str!("../pages/review.js")),
        _ => None,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::file;

    const SCRIPTS: [&str; 27] = [
        "coverage.js",
        "data.js",
        "diff.js",
        "empty.js",
        "failures.js",
        "learning.js",
        "quarantine.js",
        "review.js",
        "experiments.js",
        "docs.js",
        "main.js",
        "timeline.js",
        "api.js",
        "dom.js",
        "picture.js",
        "now.js",
        "requests.js",
        "models.js",
        "playground.js",
        "sureness.js",
        "svg.js",
        "ask.js",
        "alerts.js",
        "monitors.js",
        "overrides.js",
        "rule.js",
        "rule_form.js",
    ];

    /// The name of SVG's elements, which nobody fetches.
    const NAMESPACE: &str = "http://www.w3.org/2000/svg";

    #[test]
    fn pages_need_no_other_host_and_no_inline_script() {
        for name in ["index.html", "docs.html"] {
            let page = file(name).unwrap().text;
            for word in ["http:", "https:", "style=", "onclick", "javascript:"] {
                assert!(!page.contains(word), "{word} in {name}");
            }
            for tag in page.split("<script").skip(1) {
                assert!(tag.starts_with(" type=\"module\" src=\"/panel/"), "{tag}");
            }
        }
        for name in SCRIPTS {
            let text = file(name).unwrap().text.replace(NAMESPACE, "");
            for word in
                ["innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "://"]
            {
                assert!(!text.contains(word), "{word} in {name}");
            }
        }
        assert_eq!(file("../Cargo.toml"), None);
    }
}
