//! The tags `{% generation %}` and `{% endgeneration %}`, which mark the model's own words for
//! training and change nothing in what is rendered. The template engine does not know them.
//!
//! It must never know what else a template says.
//!
//! Start reading at [`neutralise`].

/// Turns the two tags into an `if` that always holds, with their white space control kept.
pub(crate) fn neutralise(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, after)) = rest.split_once("{%") {
        out.push_str(before);
        out.push_str("{%");
        let Some((tag, following)) = after.split_once("%}") else {
            rest = after;
            break;
        };
        let word = tag.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
        match word {
            "generation" => out.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => out.push_str(&tag.replacen("endgeneration", "endif", 1)),
            _ => out.push_str(tag),
        }
        out.push_str("%}");
        rest = following;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, expect: &str) {
        assert_eq!(neutralise(source), expect);
    }

    #[test]
    fn only_the_two_tags_change() {
        check("a{%- generation -%}b{% endgeneration %}c", "a{%- if true -%}b{% endif %}c");
        check(
            "{% if add_generation_prompt %}x{% endif %}",
            "{% if add_generation_prompt %}x{% endif %}",
        );
        check("generation {{ generation }} {% open", "generation {{ generation }} {% open");
    }
}
