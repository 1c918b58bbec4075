"""One rank of many, whoever carries the messages: its workers, what it tells, memory and pickles that ranks share."""
