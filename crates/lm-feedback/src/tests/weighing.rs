//! What must not be called an improvement.

use lm_types::{FinishReason, ReleaseHash, Role};

use super::{DAY_0, Ended, Home, MINUTE, backend_error};
use crate::Fix;

/// So long that what it makes of a question is like nothing that was asked before.
const TEMPLATE: &str = "Act as the archivist of a small museum of trams who answers letters of visitors in plain words, \
    never guesses, names the shelf and the year of each document that he relies on, leaves out what nobody asked for, keeps \
    to three sentences at most, greets nobody, and closes with the hours at which the reading room opens on weekdays. The \
    letter of today came by pigeon from the lighthouse and says: {question}";

fn fix(cluster: &str, created_at_ms: i64) -> Fix {
    Fix {
        id: String::new(),
        cluster: cluster.to_owned(),
        note: "ask otherwise".to_owned(),
        system: None,
        template: Some(TEMPLATE.to_owned()),
        expect: None,
        release_hash: None,
        created_at_ms,
        verified_at_ms: None,
        gate: None,
    }
}

/// Two of five answers are no JSON before and after; since the template came they are like none before, and another problem
/// began. Returns the cluster of before.
fn moved(home: &mut Home, fixed_at: i64, release: ReleaseHash) -> String {
    let system = (Role::System, "Respond with valid JSON.");
    for i in 0..300_i64 {
        let is_after = i >= 200;
        let question = format!("Summarise the invoice number {i} of our supplier in Hamburg.");
        let question = if is_after { TEMPLATE.replace("{question}", &question) } else { question };
        let asked = [system.clone(), (Role::User, question.as_str())];
        let stopped = Ended::Finished(FinishReason::Stop);
        let (output, ended) = match i % 5 {
            0 | 1 => (if is_after { "The shelf is empty." } else { "It costs a lot." }, stopped),
            2 if is_after => ("", backend_error()),
            _ => ("[1]", stopped),
        };
        home.answer_with(fixed_at + (i - 200) * 1000, &asked, output, ended, |event| {
            if is_after {
                event.release = release;
            }
        });
    }
    home.collect(fixed_at + 101_000);
    let rows = home.book.failures(None, 1000).unwrap();
    let last = rows.iter().rfind(|row| row.kind == "not_json").unwrap();
    let n_own = rows.iter().filter(|row| row.cluster == last.cluster).count();
    assert_eq!(n_own, 80, "the test is of failures that moved");
    last.cluster.clone()
}

#[test]
pub(super) fn what_fails_as_another_problem_of_the_kind_is_not_improved() {
    let mut home = Home::new();
    let fixed_at = DAY_0 + 200_000;
    let cluster = moved(&mut home, fixed_at, ReleaseHash([7; 16]));
    let fix = home.book.add_fix(fix(&cluster, fixed_at)).unwrap();
    let now = fixed_at + 101_000;
    let found = home.book.verify(&fix, home.store.reader(), now).unwrap();
    let counts = (found.before_failed, found.before_n, found.after_failed, found.after_n);
    assert_eq!((counts, found.after_moved), ((80, 200, 40, 100), 40));
    assert_eq!(found.verdict, "undecided");
    // If none of it is the same problem, it is far better; if all is, nothing changed.
    assert!(found.change_low < -0.3 && found.change_high > 0.0, "{found:?}");
    assert_eq!(home.book.evidence(&fix.id, 1).unwrap(), [found]);
    assert_eq!(home.book.fix(&fix.id).unwrap().verified_at_ms, None);
}

/// The release ran before its fix was noted.
#[test]
pub(super) fn what_moved_in_a_release_is_not_improved_either() {
    let mut home = Home::new();
    let (came_at, release) = (DAY_0 + 200_000, ReleaseHash([8; 16]));
    let cluster = moved(&mut home, came_at, release);
    let now = came_at + 5 * MINUTE;
    let of_release = Fix { release_hash: Some(release.to_string()), ..fix(&cluster, now) };
    let fix = home.book.add_fix(of_release).unwrap();
    let found = home.book.verify(&fix, home.store.reader(), now).unwrap();
    let counts = (found.before_failed, found.before_n, found.after_failed, found.after_n);
    assert_eq!((counts, found.after_moved), ((80, 200, 40, 100), 40));
    assert_eq!(found.verdict, "undecided");
}
