"""`innerstep report`: one HTML page on one run or several."""
