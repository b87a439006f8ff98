//! strftime_now: the caller's clock in the C locale, so that one rendering never sees two times.

use crate::base::Outcome;

const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];
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

#[derive(Clone, Copy, Default)]
pub struct Clock {
    year: i64,
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
    weekday: i64,
    day_of_year: i64,
}

impl Clock {
    /// `parts` as the header describes "__now".
    pub fn new(parts: &[i64]) -> Outcome<Self> {
        let &[year, month, day, hour, minute, second, weekday, day_of_year] = parts else {
            return Err("__now needs 8 numbers".into());
        };
        if !(1..=12).contains(&month) || !(0..=6).contains(&weekday) {
            return Err("__now is not a time".into());
        }
        Ok(Clock {
            year,
            month,
            day,
            hour,
            minute,
            second,
            weekday,
            day_of_year,
        })
    }

    fn hour_of_12(&self) -> i64 {
        (self.hour + 11) % 12 + 1
    }

    fn directive(&self, letter: char) -> Option<String> {
        let day = DAYS[self.weekday as usize];
        let month = MONTHS[self.month as usize - 1];
        Some(match letter {
            'Y' => self.year.to_string(),
            'y' => format!("{:02}", self.year % 100),
            'm' => format!("{:02}", self.month),
            'd' => format!("{:02}", self.day),
            'e' => format!("{:2}", self.day),
            'j' => format!("{:03}", self.day_of_year + 1),
            'H' => format!("{:02}", self.hour),
            'I' => format!("{:02}", self.hour_of_12()),
            'M' => format!("{:02}", self.minute),
            'S' => format!("{:02}", self.second),
            'p' => (if self.hour < 12 { "AM" } else { "PM" }).to_string(),
            'w' => self.weekday.to_string(),
            'A' => day.to_string(),
            'a' => day[..3].to_string(),
            'B' => month.to_string(),
            'b' | 'h' => month[..3].to_string(),
            'F' => self.format("%Y-%m-%d"),
            'T' => self.format("%H:%M:%S"),
            'R' => self.format("%H:%M"),
            'D' | 'x' => self.format("%m/%d/%y"),
            'X' => self.format("%H:%M:%S"),
            'c' => self.format("%a %b %e %H:%M:%S %Y"),
            'f' => "000000".to_string(),
            'n' => "\n".to_string(),
            't' => "\t".to_string(),
            '%' => "%".to_string(),
            'z' | 'Z' => String::new(),
            _ => return None,
        })
    }

    /// Directives that are not known stay as they are written.
    pub fn format(&self, format: &str) -> String {
        let mut out = String::new();
        let mut letters = format.chars().peekable();
        while let Some(letter) = letters.next() {
            if letter != '%' {
                out.push(letter);
                continue;
            }
            let unpadded = letters.next_if_eq(&'-').is_some();
            let Some(name) = letters.next() else {
                out.push('%');
                break;
            };
            match self.directive(name) {
                Some(text) if unpadded => {
                    let short = text.trim_start_matches(['0', ' ']);
                    out.push_str(if short.is_empty() { "0" } else { short });
                }
                Some(text) => out.push_str(&text),
                None => out.extend(['%', name]),
            }
        }
        out
    }
}
