//! Dates as templates print them, after Python's `strftime`, in UTC and English.
//!
//! It must never read a clock.
//!
//! Start reading at [`strftime`].

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] =
    ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const SECONDS_PER_DAY: i64 = 86_400;

/// One moment, in the terms of the Gregorian calendar.
struct Civil {
    year: i64,
    /// 1 to 12.
    month: i64,
    /// 1 to 31.
    day: i64,
    /// 1 to 366.
    day_of_year: i64,
    /// 0 is Sunday.
    weekday: i64,
    /// 0 to 86,399.
    second_of_day: i64,
}

/// Prints `unix_s`, seconds since 1970-01-01 in UTC, by `format`. A directive that is not known
/// stays as it is.
pub(crate) fn strftime(format: &str, unix_s: i64) -> String {
    let civil = civil(unix_s);
    let mut out = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let plain = rest.as_str().starts_with('-');
        if plain {
            rest.next();
        }
        match rest.next() {
            Some(directive) => push_directive(&mut out, directive, plain, &civil),
            None => out.push_str(if plain { "%-" } else { "%" }),
        }
    }
    out
}

/// Appends one directive; `plain` numbers have no leading zeros.
fn push_directive(out: &mut String, directive: char, plain: bool, civil: &Civil) {
    let (hour, minute) = (civil.second_of_day / 3600, civil.second_of_day / 60 % 60);
    let month_name = MONTHS[(civil.month - 1) as usize];
    let day_name = DAYS[civil.weekday as usize];
    let number = |value: i64, width: usize| {
        let width = if plain { 0 } else { width };
        format!("{value:0width$}")
    };
    let text = match directive {
        'Y' => number(civil.year, 4),
        'y' => number(civil.year.rem_euclid(100), 2),
        'm' => number(civil.month, 2),
        'd' => number(civil.day, 2),
        'j' => number(civil.day_of_year, 3),
        'H' => number(hour, 2),
        'I' => number((hour + 11) % 12 + 1, 2),
        'M' => number(minute, 2),
        'S' => number(civil.second_of_day % 60, 2),
        'p' => if hour < 12 { "AM" } else { "PM" }.to_owned(),
        'B' => month_name.to_owned(),
        'b' => month_name[..3].to_owned(),
        'A' => day_name.to_owned(),
        'a' => day_name[..3].to_owned(),
        'F' => format!("{:04}-{:02}-{:02}", civil.year, civil.month, civil.day),
        'T' => format!("{hour:02}:{minute:02}:{:02}", civil.second_of_day % 60),
        '%' => "%".to_owned(),
        other => format!("%{}{other}", if plain { "-" } else { "" }),
    };
    out.push_str(&text);
}

/// Source: Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
fn civil(unix_s: i64) -> Civil {
    let days = unix_s.div_euclid(SECONDS_PER_DAY);
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    // Years begin in March here, so that the leap day is the last day.
    let day_from_march = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_from_march + 2) / 153;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let is_leap =
        year.rem_euclid(4) == 0 && (year.rem_euclid(100) != 0 || year.rem_euclid(400) == 0);
    let march_first = 59 + i64::from(is_leap);
    let day_of_year =
        if month > 2 { march_first + day_from_march } else { day_from_march - 306 } + 1;
    Civil {
        year,
        month,
        day: day_from_march - (153 * month_from_march + 2) / 5 + 1,
        day_of_year,
        weekday: (days + 4).rem_euclid(7),
        second_of_day: unix_s.rem_euclid(SECONDS_PER_DAY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(unix_s: i64, format: &str, expect: &str) {
        assert_eq!(strftime(format, unix_s), expect);
    }

    #[test]
    fn dates_print_as_in_python() {
        check(0, "%Y-%m-%d %H:%M:%S %A %j", "1970-01-01 00:00:00 Thursday 001");
        check(1_721_952_000, "%d %b %Y", "26 Jul 2024");
        check(1_709_164_799, "%a %d %B %y, %I:%M %p", "Wed 28 February 24, 11:59 PM");
        check(1_709_164_800, "%F %T %j", "2024-02-29 00:00:00 060");
        check(1_735_603_200, "%F %j", "2024-12-31 366");
        check(1_741_046_400, "%-d/%-m %-H", "4/3 0");
        check(-1, "%F %T", "1969-12-31 23:59:59");
        check(0, "100%% %q %-q %", "100% %q %-q %");
    }
}
