//! The language of a text, by its script and its most frequent short words.
//!
//! It must never guess: short texts, names, code and mixed texts have no language here. Languages whose scripts or
//! words it has no list of are not told apart from "none".
//!
//! Start reading at [`of`].

use std::collections::HashMap;
use std::sync::LazyLock;

/// The most frequent words that say least about the subject.
const WORDS: [(&str, &str); 7] = [
    (
        "en",
        "the of and to in is that it for was with as his on be at by this had not are but from or have an they which one you were all her she there would their we him been has when who will no more if out so",
    ),
    (
        "de",
        "der die das und in zu den von mit ist des sich nicht ein eine dem auf für im als auch es an werden aus er hat dass sie nach wird bei einer um am sind noch wie einem über so zum war haben nur oder aber vor zur",
    ),
    (
        "fr",
        "de la le et les des en un du une que est pour qui dans a par plus pas au sur ne se ce il sont avec son mais comme ou si leur y aux cette ont ses été nous vous je elle",
    ),
    (
        "es",
        "de la que el en y a los se del las un por con no una su para es al lo como más pero sus le ya o este sí porque esta entre cuando muy sin sobre también me hasta hay donde",
    ),
    (
        "it",
        "di che è la il un a per in una sono mi ho lo ha le si ti i con cosa se io come da ci no questo qui e hai sei del bene tu sì me più al mio c'è ma nel della gli alla",
    ),
    (
        "pt",
        "de a o que e do da em um para é com não uma os no se na por mais as dos como mas foi ao ele das tem à seu sua ou ser quando muito há nos já está eu também só pelo pela",
    ),
    (
        "nl",
        "de van een het en in is dat op te zijn voor met die niet aan er om ook als dan maar bij of uit nog naar heeft hij ze wordt door over ze geen was werd deze wel hun",
    ),
];
/// Fewer words are no text.
const MIN_WORDS: usize = 12;
const MAX_WORDS: usize = 400;
const SCRIPTS: [&str; 9] = ["ru", "el", "he", "ar", "hi", "th", "ja", "ko", "zh"];

/// That there are texts of this language, as far as can be told.
///
/// # Errors
/// Which languages can be told.
pub fn must_exist(code: &str) -> Result<(), String> {
    if WORDS.iter().any(|(known, _)| *known == code) || SCRIPTS.contains(&code) {
        return Ok(());
    }
    let words: Vec<&str> = WORDS.iter().map(|(code, _)| *code).collect();
    let (words, scripts) = (words.join(", "), SCRIPTS.join(", "));
    Err(format!("has {code:?}, but the languages that can be told are {words}, {scripts}"))
}

/// The ISO 639-1 code of the language that the text surely has. All Cyrillic counts as `ru`.
#[must_use]
pub fn of(text: &str) -> Option<&'static str> {
    by_script(text).or_else(|| by_words(text))
}

fn by_script(text: &str) -> Option<&'static str> {
    let mut counts = [0_usize; SCRIPTS.len()];
    let mut n_letters = 0;
    for char in text.chars().filter(|char| char.is_alphabetic()).take(4 * MAX_WORDS) {
        n_letters += 1;
        let script = match u32::from(char) {
            0x400..=0x52f => 0,
            0x370..=0x3ff => 1,
            0x590..=0x5ff => 2,
            0x600..=0x6ff => 3,
            0x900..=0x97f => 4,
            0xe00..=0xe7f => 5,
            0x3040..=0x30ff => 6,
            0xac00..=0xd7a3 => 7,
            0x4e00..=0x9fff => 8,
            _ => continue,
        };
        counts[script] += 1;
    }
    // Japanese is written with Chinese characters, too.
    if counts[6] * 10 > counts[8] {
        counts[6] += counts[8];
        counts[8] = 0;
    }
    let (best, &count) = counts.iter().enumerate().max_by_key(|(_, count)| **count)?;
    (count >= MIN_WORDS && count * 2 > n_letters).then(|| SCRIPTS[best])
}

/// The languages of each word, a bit for each of [`WORDS`].
static LANGUAGES: LazyLock<HashMap<&str, u8>> = LazyLock::new(|| {
    let mut languages = HashMap::new();
    for (i, (_, list)) in WORDS.iter().enumerate() {
        list.split(' ').for_each(|word| *languages.entry(word).or_default() |= 1 << i);
    }
    languages
});

fn by_words(text: &str) -> Option<&'static str> {
    let mut hits = [0_usize; WORDS.len()];
    let mut n_words = 0;
    let words = text.split(|char: char| !char.is_alphabetic() && char != '\'');
    for word in words.filter(|word| !word.is_empty()).take(MAX_WORDS) {
        n_words += 1;
        if word.len() > 8 {
            continue;
        }
        let languages = LANGUAGES.get(word.to_lowercase().as_str()).copied().unwrap_or(0);
        for (i, hits) in hits.iter_mut().enumerate() {
            *hits += usize::from(languages >> i & 1);
        }
    }
    let mut order: Vec<usize> = (0..WORDS.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(hits[i]));
    let (best, second) = (hits[order[0]], hits[order[1]]);
    // A fifth of running text is such words; half as many again as the next language is no accident.
    let is_sure = n_words >= MIN_WORDS && best * 5 >= n_words && best * 2 > second * 3;
    is_sure.then(|| WORDS[order[0]].0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: Option<&str>) {
        assert_eq!(of(text), expect, "{text}");
    }

    #[test]
    fn running_text_has_a_language_and_scraps_have_none() {
        check("The order has not been delivered to the address that was given in it.", Some("en"));
        check(
            "Die Lieferung ist nicht an der Adresse angekommen, die auf dem Zettel steht.",
            Some("de"),
        );
        check(
            "La commande n'est pas arrivée dans les délais et le client est mécontent de ce service.",
            Some("fr"),
        );
        check(
            "El pedido no ha llegado y los clientes están muy molestos con la empresa por este retraso de las entregas.",
            Some("es"),
        );
        check("Заказ не был доставлен по указанному адресу", Some("ru"));
        check("ご注文の商品がまだ届いていません。", Some("ja"));
        check("hello there", None);
        check("let x = foo(bar, baz); if x { return y } else { panic!() } while true {}", None);
    }
}
