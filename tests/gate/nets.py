"""Three models as a project has them, each with harmless changes and with faults that somebody commits."""

from __future__ import annotations

import torch
from torch import nn


class Encoder(nn.Module):
    """Vectors in, one vector out; forget gates start open."""

    unused, activation, batch_first, hidden = False, nn.ReLU, True, 24

    def __init__(self):
        super().__init__()
        if self.unused:
            self.spare = nn.Linear(7, 7)
        self.pre = nn.Sequential(nn.Linear(8, self.hidden), self.activation())
        self.rnn = nn.LSTM(self.hidden, self.hidden, 2, batch_first=self.batch_first)
        self.out = nn.Linear(self.hidden, 5)
        self.reset_parameters()

    def reset_parameters(self):
        for name, p in self.rnn.named_parameters():
            if name.startswith("bias_ih"):
                nn.init.constant_(p[self.hidden : 2 * self.hidden], 4.0)

    def forward(self, x):
        return self.out(self.rnn(self.pre(x))[0][:, -1])


class EncoderOtherDraw(Encoder):
    unused = True


class EncoderGelu(Encoder):
    activation = nn.GELU


class EncoderWider(Encoder):
    hidden = 28


class EncoderNoInit(Encoder):
    def reset_parameters(self):
        pass


class EncoderCutBefore(Encoder):
    def forward(self, x):
        return self.out(self.rnn(self.pre(x).detach())[0][:, -1])


class EncoderAxis(Encoder):
    batch_first = False


class EncoderScale(Encoder):
    """A learnable scale that is read past its gradient."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(self.hidden))

    def forward(self, x):
        return self.out(self.rnn(self.pre(x) * self.scale.data)[0][:, -1])


class Decoder(nn.Module):
    """Token ids in, logits at every step; the state is handed on in a loop."""

    update_bias, detach_every, reset_every, hidden = 4.0, 0, 0, 24

    def __init__(self):
        super().__init__()
        self.emb = nn.Embedding(20, 12)
        self.cell = nn.GRUCell(12, self.hidden)
        self.head = nn.Linear(self.hidden, 20)
        with torch.no_grad():
            self.cell.bias_ih[self.hidden : 2 * self.hidden] = self.update_bias

    def forward(self, ids):
        h = torch.zeros(ids.size(0), self.hidden, dtype=self.emb.weight.dtype)
        logits = []
        for t in range(ids.size(1)):
            if self.detach_every and t % self.detach_every == 0:
                h = h.detach()
            if self.reset_every and t % self.reset_every == 0:
                h = torch.zeros_like(h)
            h = self.cell(self.emb(ids[:, t]), h)
            logits.append(self.head(h))
        return torch.stack(logits, 1)


class DecoderWider(Decoder):
    hidden = 32


class DecoderDropout(Decoder):
    def __init__(self):
        super().__init__()
        self.head = nn.Sequential(nn.Dropout(0.1), self.head)


class DecoderDetach(Decoder):
    detach_every = 20


class DecoderReset(Decoder):
    reset_every = 50


class DecoderNoBias(Decoder):
    update_bias = 0.0


class Tagger(nn.Module):
    """Windows in, a label per step: both directions over a small convolution."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(9, 16, 5, padding=2)
        self.norm = nn.LayerNorm(16)
        self.rnn = nn.LSTM(16, 16, batch_first=True, bidirectional=True)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(32, 5)

    def between(self, y):
        return y

    def forward(self, x):
        y = torch.relu(self.conv(x.transpose(1, 2))).transpose(1, 2)
        return self.head(self.drop(self.rnn(self.between(self.norm(y)))[0]))


class TaggerOtherDraw(Tagger):
    def __init__(self):
        nn.Linear(7, 7)
        super().__init__()


class TaggerCutBefore(Tagger):
    def between(self, y):
        return y.detach()
