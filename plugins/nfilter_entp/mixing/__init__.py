"""``entp.pair`` and ``entp.mix``: pairs of similar rows, and the new row that is made from each pair."""
