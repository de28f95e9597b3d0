"""The results in Tables 1 and 3 of the GenRec paper, quoted from the paper.

HR@5, NDCG@5, HR@10 and NDCG@10 over the full catalogue. The paper took the baselines' results from
the P5 paper. All models use the published item numbers, which P5 and GenRec verbalise as text.
"""

METRICS = ("HR@5", "NDCG@5", "HR@10", "NDCG@10")
MISSING = (None,) * 4  # a row without results

Row = tuple[float | None, ...]  # one value per metric of METRICS

TABLE_1: dict[str, dict[str, Row]] = {
    "sports": {
        "Caser": (0.0116, 0.0072, 0.0194, 0.0097),
        "HGN": (0.0189, 0.0120, 0.0313, 0.0159),
        "FDSA": (0.0182, 0.0122, 0.0288, 0.0156),
        "GRU4Rec": (0.0129, 0.0086, 0.0204, 0.0110),
        "BERT4Rec": (0.0115, 0.0075, 0.0191, 0.0099),
        "P5-S": (0.0272, 0.0169, 0.0361, 0.0198),
        "P5-B": (0.0387, 0.0312, 0.0460, 0.0336),
        "SASRec": (0.0233, 0.0154, 0.0350, 0.0192),
        "S3-Rec": (0.0251, 0.0161, 0.0385, 0.0204),
        "GenRec": (0.0397, 0.0332, 0.0462, 0.0353),
    },
    "beauty": {
        "Caser": (0.0205, 0.0131, 0.0347, 0.0176),
        "HGN": (0.0325, 0.0206, 0.0512, 0.0266),
        "FDSA": (0.0267, 0.0163, 0.0407, 0.0208),
        "GRU4Rec": (0.0164, 0.0099, 0.0283, 0.0137),
        "BERT4Rec": (0.0203, 0.0124, 0.0347, 0.0170),
        "P5-S": (0.0503, 0.0370, 0.0659, 0.0421),
        "P5-B": (0.0508, 0.0379, 0.0664, 0.0429),
        "SASRec": (0.0387, 0.0249, 0.0605, 0.0318),
        "S3-Rec": (0.0387, 0.0244, 0.0647, 0.0327),
        "GenRec": (0.0515, 0.0397, 0.0641, 0.0439),
    },
    "yelp": {
        "Caser": (0.0151, 0.0096, 0.0253, 0.0129),
        "HGN": (0.0186, 0.0115, 0.0326, 0.0159),
        "FDSA": (0.0158, 0.0098, 0.0276, 0.0136),
        "GRU4Rec": (0.0152, 0.0099, 0.0263, 0.0134),
        "BERT4Rec": (0.0051, 0.0033, 0.0090, 0.0045),
        "P5-S": (0.0568, 0.0402, 0.0707, 0.0447),
        "P5-B": MISSING,
        "SASRec": (0.0162, 0.0100, 0.0274, 0.0136),
        "S3-Rec": (0.0201, 0.0123, 0.0341, 0.0168),
        "GenRec": (0.0627, 0.0475, 0.0724, 0.0507),
    },
}
# Rows "w/o pretraining"; the rows with pretraining equal those of GenRec in Table 1.
TABLE_3: dict[str, Row] = {
    "sports": (0.0360, 0.0286, 0.0431, 0.0310),
    "beauty": (0.0422, 0.0313, 0.0548, 0.0354),
    "yelp": (0.0626, 0.0469, 0.0716, 0.0499),
}
